"""The claims that a matrix can name, and what judges a study that names none of them."""

from bench.report.verdicts.claim_lead import Leader
from bench.report.verdicts.claim_next_patch import NextPatch
from bench.report.verdicts.claim_physics import Learning
from bench.report.verdicts.claim_questions import Questions
from bench.report.verdicts.claim_scaling import Steadiness
from bench.report.verdicts.claim_shapes import Cropping
from bench.report.verdicts.claims import Claim

CLAIMS: dict[str, Claim] = {
    "backbone": Leader(
        "Which backbone should a video diffusion model have, for this data, this budget and this machine?", of_backbones=True
    ),
    "shapes": Cropping(),
    "physics": Learning(),
    "scaling": Steadiness(),
    "next-patch": NextPatch(),
}
DEFAULT = Leader("How do the contenders compare on this data, this budget and this machine?")


def claim_of(name: str | None, contrasts: bool = False) -> Claim:
    """The rule of a matrix's claim; one that no table knows is judged by who leads. With contrasts these are what any claim rests on."""
    claim = CLAIMS.get(str(name), DEFAULT)
    return Questions(claim.question, claim.of_backbones) if contrasts and not isinstance(claim, Questions) else claim
