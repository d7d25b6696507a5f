"""The committed report cards: whether a distance may decide on a source of data. Knows no torch.

A card is made by `battery` and counts once it lies in `reports/cards/`. What published networks see is shown there too, but FVD needs no
card: it is what everybody reports. A network that is not everybody's may decide only where its card says that it sees damage.
"""

from pathlib import Path

from pydantic import ValidationError

from bench.data.frozen import explain
from bench.data.source import SourceConfig
from bench.metrics.battery.judgements import ReportCard
from bench.metrics.extractors.manifest import Manifest
from bench.shapes import Refusal

CARDS = Path(__file__).parents[3] / "reports" / "cards"


def cards_of(manifest: Manifest, data: SourceConfig, folder: Path = CARDS) -> list[ReportCard]:
    """The committed cards of an extractor, these weights, on clips of a source. Refusal names a card that cannot be read.

    Clips of a folder are known by the folder's name.
    """
    found, known = [], (manifest.name, manifest.weights_sha256)
    place = getattr(data, "path", None) or getattr(data, "root", None)
    expected = Path(place).resolve().name if place else data.source
    for path in sorted(folder.glob("*/card.json")):
        try:
            card = ReportCard.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(f"report card {path} cannot be read ({error}); make it again with `battery`") from error
        except ValidationError as error:
            raise Refusal(f"report card {path} is none ({explain(error, ReportCard)}); make it again with `battery`") from error
        source = str(card.clips.get("source"))
        named = source.rpartition(" ")[0] if place else source  # of a folder it is followed by a hash
        if named == expected and (card.extractor, card.manifest.get("weights_sha256")) == known:
            found.append(card)
    return found


def told(manifest: Manifest, data: SourceConfig, folder: Path = CARDS) -> tuple[bool, str]:
    """Whether all cards of an extractor on a source passed, and there is one; and what they say, in a clause."""
    if not folder.is_dir():
        return False, f"no report cards in {folder}, as in an installation without a checkout; there: python3 -m pip install -e ."
    cards, source = cards_of(manifest, data, folder), data.source
    if not cards:
        return False, f"extractor {manifest.name} has no report card on {source}"
    failed = list(dict.fromkeys(name for card in cards for name in card.failed()))
    if failed:
        return False, f"the report card of extractor {manifest.name} on {source} fails {', '.join(failed)}"
    return True, f"the report card of extractor {manifest.name} on {source} passes"
