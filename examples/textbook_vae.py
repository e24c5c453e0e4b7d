"""The autoencoders of the textbooks in torch: a dense autoencoder, a dense VAE and a convolutional VAE, 2-D latents.

Usage: python examples/textbook_vae.py --model ae|vae|conv-vae --data digits|fashion-mnist [--out DIR] [--epochs N].
`digits` ships with scikit-learn (1,797 pictures of 8x8 pixels): no download, done in under two minutes.
`fashion-mnist` is read from the four IDX files in --data-dir, or else fetched from OpenML by scikit-learn.

Prints the evidence lower bound (ELBO) of every epoch in nats per picture, and writes to --out: reconstructions.png,
samples.png, latents.png, and a TensorBoard log where TensorBoard is installed. docs/theory.md leads on from here.

The VAE is Kingma and Welling, "Auto-Encoding Variational Bayes" (ICLR 2014). Pixels are continuous, so the decoder is a
Gaussian; its one standard deviation is learned (Rybkin et al., "Simple and Effective VAE Training with Calibrated
Decoders", ICML 2021): with it fixed at 1, as tutorials often have it, the KL term outweighs the pixels and the latents
collapse. The binary cross-entropy of other tutorials is no likelihood of grey values.
"""

import argparse
import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

LATENTS = 2
HIDDEN = 256
CHANNELS = 32
LOG_2PI = math.log(2 * math.pi)
GRID, ZOOM_TO_PX = 12, 40


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents: mean and log variance [B, 2]; without a variance, a point (an autoencoder)."""

    mean: Tensor
    log_variance: Tensor | None

    def draw(self) -> Tensor:
        """Latents [B, 2]: mean + standard deviation * noise, through which gradients pass (reparameterization)."""
        if self.log_variance is None:
            return self.mean
        return self.mean + torch.exp(0.5 * self.log_variance) * torch.randn_like(self.mean)

    def kl_nats(self) -> Tensor:
        """Kullback-Leibler divergence [B] from the standard normal prior, in nats; 0 for a point."""
        if self.log_variance is None:
            return torch.zeros(len(self.mean))
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(1)


class Terms(NamedTuple):
    """Of one batch, each [B] in nats: log p(x | z) of the pixels, and the KL divergence of the latents."""

    log_likelihood: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound: at most the log probability of the picture."""
        return self.log_likelihood - self.kl


class Autoencoder(nn.Module):
    """Pictures [B, 1, S, S] in 0..1 to two latents and back. Dense or convolutional; with or without a posterior.

    Args:
        side: S, a multiple of 4.
        variational: a VAE, otherwise an autoencoder.
        convolutional: convolutions of stride 2 instead of dense layers.
    """

    def __init__(self, side: int, *, variational: bool, convolutional: bool) -> None:
        super().__init__()
        self.variational, outputs = variational, 2 * LATENTS if variational else LATENTS
        self.encoder, self.decoder = (_convolutional if convolutional else _dense)(side, outputs)
        self.log_deviation = nn.Parameter(torch.tensor(-1.0))

    def encode(self, x: Tensor) -> Posterior:
        """What is known of the latents, given the pictures."""
        found = self.encoder(x)
        if not self.variational:
            return Posterior(found, None)
        mean, log_variance = found.chunk(2, 1)
        return Posterior(mean, log_variance)

    def decode(self, z: Tensor) -> Tensor:
        """Mean pictures [B, 1, S, S] of latents [B, 2]."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> Terms:
        """Both terms of the ELBO, with one draw of the latents."""
        posterior = self.encode(x)
        error = (x - self.decode(posterior.draw())).flatten(1)
        log_likelihood = -0.5 * (
            (error * torch.exp(-self.log_deviation)).square() + 2 * self.log_deviation + LOG_2PI
        ).sum(1)
        return Terms(log_likelihood, posterior.kl_nats())

    @torch.no_grad()
    def sample(self, count: int, *, with_noise: bool = False) -> Tensor:
        """Pictures [count, 1, S, S] from the prior: their means, or with the noise that the likelihood speaks of."""
        means = self.decode(torch.randn(count, LATENTS))
        return means + torch.exp(self.log_deviation) * torch.randn_like(means) if with_noise else means


def _dense(side: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(side**2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
        nn.Linear(HIDDEN, outputs),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, side**2),
        nn.Sigmoid(), nn.Unflatten(1, (1, side, side)),
    )  # fmt: skip
    return encoder, decoder


def _convolutional(side: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    small, wide = side // 4, 2 * CHANNELS
    encoder = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, 2, 1), nn.ReLU(), nn.Conv2d(CHANNELS, wide, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(wide * small**2, outputs),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(LATENTS, wide * small**2), nn.ReLU(), nn.Unflatten(1, (wide, small, small)),
        nn.ConvTranspose2d(wide, CHANNELS, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(CHANNELS, 1, 4, 2, 1),
        nn.Sigmoid(),
    )  # fmt: skip
    return encoder, decoder


def build(name: str, side: int) -> Autoencoder:
    """The model of a name: ae, vae or conv-vae."""
    return Autoencoder(side, variational=name != "ae", convolutional=name == "conv-vae")


# --- data -------------------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Pictures [N, 1, S, S] float32 in 0..1 and what they show, int [N]."""

    pictures: Tensor
    labels: NDArray[np.integer]


def load(name: str, folder: Path | None) -> Data:
    """A data set by name; `folder` holds the IDX files of Fashion-MNIST."""
    if name == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        pictures, labels = found.images / 16, found.target
    elif folder is not None:
        pictures = _read_idx(folder / "train-images-idx3-ubyte.gz") / 255
        labels = _read_idx(folder / "train-labels-idx1-ubyte.gz")
    else:
        from sklearn.datasets import fetch_openml

        found = fetch_openml("Fashion-MNIST", version=1, as_frame=False)
        pictures, labels = found.data.reshape(-1, 28, 28) / 255, found.target.astype(np.int64)
    return Data(torch.tensor(pictures, dtype=torch.float32)[:, None], labels)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of bytes in the IDX format: two zeros, type 8, number of dimensions, their sizes, big-endian."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is no IDX file of bytes: it starts with {data[:4].hex()}, expected 000008")
    shape = np.frombuffer(data, ">u4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


# --- training ---------------------------------------------------------------------------------------------------------


class Epoch(NamedTuple):
    """Means over the pictures of one epoch, in nats per picture; `loss` is what was minimised."""

    number: int
    loss: float
    elbo: float
    log_likelihood: float
    kl: float


def train(
    model: Autoencoder,
    pictures: Tensor,
    *,
    epochs: int,
    beta: float = 1.0,
    learning_rate: float = 2e-3,
    batch: int = 64,
) -> Iterator[Epoch]:
    """Minimise -log p(x | z) + beta * KL by Adam, whose learning rate falls as a cosine to zero; yields every epoch.

    beta = 1 is the ELBO; above, latents tell less (Higgins et al., "beta-VAE", ICLR 2017).
    """
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    steps = -(-len(pictures) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    for number in range(1, epochs + 1):
        sums = torch.zeros(2)
        for chosen in torch.randperm(len(pictures)).split(batch):
            terms = model(pictures[chosen])
            loss = (beta * terms.kl - terms.log_likelihood).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            sums += torch.stack([terms.log_likelihood.detach().sum(), terms.kl.detach().sum()])
        log_likelihood, kl = (sums / len(pictures)).tolist()
        yield Epoch(number, beta * kl - log_likelihood, log_likelihood - kl, log_likelihood, kl)


# --- pictures ---------------------------------------------------------------------------------------------------------


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """Pictures [N, 1, S, S] in rows, a pixel apart on each side, enlarged without smoothing, dark on light."""
    framed = nn.functional.pad(pictures.clamp(0, 1), (1, 1, 1, 1))
    side = framed.shape[-1]
    rows = framed[: len(framed) // columns * columns].reshape(-1, columns, side, side)
    sheet = 1 - rows.permute(0, 2, 1, 3).reshape(-1, columns * side)
    image = Image.fromarray((sheet * 255).round().byte().numpy())
    zoom = max(1, ZOOM_TO_PX // side)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


@torch.no_grad()
def reconstructions(model: Autoencoder, pictures: Tensor) -> Image.Image:
    """Rows of originals, each above a row of what the model makes of them."""
    x = pictures[: 3 * GRID]
    back = model.decode(model.encode(x).mean)
    pairs = torch.stack([x.unflatten(0, (-1, GRID)), back.unflatten(0, (-1, GRID))], 1)
    return grid(pairs.flatten(0, 2), GRID)


@torch.no_grad()
def plane(model: Autoencoder) -> Image.Image:
    """Decoded pictures over the latent plane; of a VAE at even steps of the prior's probability.

    Of an autoencoder, which has no prior, the same places show what its latent space is worth between its codes.
    """
    marks = torch.special.ndtri(torch.linspace(0.03, 0.97, GRID))
    z = torch.stack([marks.repeat(GRID), marks.flip(0).repeat_interleave(GRID)], 1)
    return grid(model.decode(z), GRID)


def scatter(model: Autoencoder, data: Data, path: Path) -> None:
    """Where every picture lies in the latent plane, coloured by its label, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with torch.no_grad():
        means = model.encode(data.pictures).mean.numpy()
    figure, axes = pyplot.subplots(figsize=(6, 5.4), layout="constrained")
    shown = axes.scatter(*means.T, c=data.labels, cmap="tab10", s=5)
    axes.set(xlabel="latent 1", ylabel="latent 2", aspect="equal")
    axes.legend(*shown.legend_elements(), loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


class Log:
    """TensorBoard's log of a run, where TensorBoard is installed; otherwise nothing."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("TensorBoard is not installed: no log (pip install 'vaecodec[examples]')")
            self.writer = None
        else:
            self.writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, epoch: Epoch) -> None:
        """One point of every curve."""
        for name in ("loss", "elbo", "log_likelihood", "kl"):
            if self.writer:
                self.writer.add_scalar(f"nats per picture/{name}", getattr(epoch, name), epoch.number)

    def close(self) -> None:
        """To the disk."""
        if self.writer:
            self.writer.close()


def main(arguments: list[str] | None = None) -> Epoch:
    """Train, print the ELBO of every epoch, write the pictures; returns the last epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("ae", "vae", "conv-vae"), default="vae")
    parser.add_argument("--data", choices=("digits", "fashion-mnist"), default="digits")
    parser.add_argument("--data-dir", type=Path, help="holds the IDX files of Fashion-MNIST")
    parser.add_argument("--epochs", type=int, help="60 for digits, 10 for fashion-mnist")
    parser.add_argument("--beta", type=float, default=1.0, help="weight of the KL term")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="out/textbook/MODEL if nothing is said")
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    data = load(given.data, given.data_dir)
    model = build(given.model, data.pictures.shape[-1])
    out = given.out or Path("out/textbook") / given.model
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out)
    for epoch in train(
        model, data.pictures, epochs=given.epochs or {"digits": 60}.get(given.data, 10), beta=given.beta
    ):
        name = "ELBO" if model.variational else "log-likelihood"
        print(f"epoch {epoch.number:3}: {name} {epoch.elbo:8.2f} nats (KL {epoch.kl:5.2f}), loss {epoch.loss:8.2f}")
        log.write(epoch)
    log.close()
    reconstructions(model, data.pictures).save(out / "reconstructions.png")
    plane(model).save(out / "samples.png")
    scatter(model, data, out / "latents.png")
    print(f"wrote reconstructions.png, samples.png and latents.png to {out}")
    return epoch


if __name__ == "__main__":
    main()
