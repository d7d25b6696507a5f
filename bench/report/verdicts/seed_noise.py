"""How far values drift from seed to seed: what a difference of too few seeds is held against. Knows no torch.

Standard deviation of a value's logarithm over the seeds of one contender, pooled over all contenders of the recorded studies
(`reports/calibration/seeds.csv`, which a test compares). A measure that no study recorded, and one that may be 0, has none. Rates drift as
the machine is used by others, which counts: a user's machine may be too.
"""

SEED_DEVIATION = {  # name without its n
    "fd_motion": 0.33,
    "fvd": 0.052,
    "fd_frame": 0.18,
    "kd_motion": 0.79,
    "kvd": 0.14,
    "val_loss": 0.022,
    "subject_whole_rate": 0.36,
    "framing_distance": 0.16,
    "saliency_distance": 0.21,
    "train_clips_per_s": 0.17,
    "sample_clips_per_s": 0.23,
    "train_wall_time_s": 0.16,
}
