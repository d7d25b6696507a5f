"""Both backbones a size below XS, for runs inside a test: "tests.small:DiT-XXS/2", "tests.small:UNet-XXS"."""

from baselines import BACKBONES as UNETS
from dit import BACKBONES as DITS

BACKBONES = {
    "UNet-XXS": UNETS["UNet-XS"].configured(block_channels=[16, 32], context_width=64),
    "DiT-XXS/2": DITS["DiT-XS/2"].configured(depth=2, hidden_size=88),
    "AR-XXS/2-frame": DITS["AR-XS/2-frame"].configured(depth=2, hidden_size=88),
}
