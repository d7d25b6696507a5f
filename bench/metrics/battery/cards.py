"""The committed report cards: whether a distance may decide on a source of data. Knows no torch.

A card is made by `battery` and counts once it lies in `reports/cards/`. What published networks see is shown there too, but FVD needs no
card: it is what everybody reports. A network that is not everybody's may decide only where its card says that it sees damage.
"""

from pathlib import Path

from pydantic import ValidationError

from bench.data.frozen import explain
from bench.metrics.battery.judgements import ReportCard
from bench.metrics.extractors.manifest import Manifest
from bench.shapes import Refusal

CARDS = Path(__file__).parents[3] / "reports" / "cards"


def cards_of(manifest: Manifest, source: str, folder: Path = CARDS) -> list[ReportCard]:
    """The committed cards of an extractor, these weights, on clips of a source. Refusal names a card that cannot be read."""
    found = []
    for path in sorted(folder.glob("*/card.json")):
        try:
            card = ReportCard.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(f"report card {path} cannot be read ({error}); make it again with `battery`") from error
        except ValidationError as error:
            raise Refusal(f"report card {path} is none ({explain(error, ReportCard)}); make it again with `battery`") from error
        if card.clips.get("source") == source and (card.extractor, card.manifest.get("weights_sha256")) == _identity(manifest):
            found.append(card)
    return found


def told(manifest: Manifest, source: str, folder: Path = CARDS) -> tuple[bool, str]:
    """Whether all cards of an extractor on a source passed, and there is one; and what they say, in a clause."""
    cards = cards_of(manifest, source, folder)
    if not cards:
        return False, f"extractor {manifest.name} has no report card on {source}"
    failed = list(dict.fromkeys(name for card in cards for name in card.failed()))
    if failed:
        return False, f"the report card of extractor {manifest.name} on {source} fails {', '.join(failed)}"
    return all(card.passed for card in cards), f"the report card of extractor {manifest.name} on {source} passes"


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest.name, manifest.weights_sha256
