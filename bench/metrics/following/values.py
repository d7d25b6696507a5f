"""What the measures of following captions are called, as a record and a report name them. No torch."""

from bench.metrics.pixels.contract import SHARE, PixelValue

UNSEEN = "_unseen"
ALL = "follows_shape_colour_direction"
WORDS = {
    ALL: "shape, colour and direction",
    "follows_shape": "shape",
    "follows_colour": "colour",
    "follows_direction": "direction in its first half",
    "follows_number": "number of objects",
}
FOLLOWING = tuple(
    PixelValue(
        name=name + end,
        title=f"Clips that show the {what} they were told{where}",
        unit=SHARE,
        better="higher",
        axis=True,
        plain=f"show the {what} they were told{where}",
    )
    for end, where in (("", ""), (UNSEEN, ", combinations never trained on"))
    for name, what in WORDS.items()
)
CLIP_SCORE = PixelValue(
    name="clip_score",
    title="CLIP score of frames and their caption",
    better="higher",
    axis=True,
    plain="are nearer to what they were told, as a CLIP network sees it",
)
VALUES = (*FOLLOWING, CLIP_SCORE)
