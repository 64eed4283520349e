"""Whether an installed hex_ssl works: run by a Python that has it, from a folder outside the checkout."""

import re
from importlib.metadata import metadata
from pathlib import Path

import torch
import torch.nn.functional as F

import hex_ssl

# An index shows the README as the wheel's description. Where the wheel names its repository, the links lead there.
about = metadata("hex-ssl")
description = about.get("Description") or about.get_payload()
assert "# hex-ssl" in description, description[:200]
relative = re.findall(r"\]\((?!https?://|#)[^)]*\)", description) if about.get_all("Project-URL") else []
assert not relative, f"expected absolute links in the description, but got {relative}"
assert "Typing :: Typed" in about.get_all("Classifier"), about.get_all("Classifier")
assert (Path(hex_ssl.__file__).parent / "py.typed").is_file()

package = Path(hex_ssl.__file__).resolve()
assert Path(__file__).resolve().parents[1] not in package.parents, f"expected an installed hex_ssl, but got {package}"
config = hex_ssl.show_config()
assert config["backend on cpu"].startswith("cpu: "), config


def plain_ntxent(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of each row against the other view of its sample."""
    rows = F.normalize(z)
    logits = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))


z = torch.randn(96, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
plain = plain_ntxent(z, 0.2)
(expected,) = torch.autograd.grad(plain, z)
loss = hex_ssl.NTXentLoss(temperature=0.2)(*z.chunk(2))
(gradient,) = torch.autograd.grad(loss, z)
torch.testing.assert_close(loss, plain)
torch.testing.assert_close(gradient, expected)
criterion = hex_ssl.HexLoss(temperature=0.2)
criterion(*z.chunk(2)).backward()
assert criterion.statistics.hierarchical_negatives > 0
print(f"NTXentLoss {loss:.6f} as by torch's own operations ({plain:.6f}), and its gradient")
