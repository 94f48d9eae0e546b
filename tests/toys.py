"""Small networks of many shapes, for 8×8 images of two channels."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Chain(nn.Sequential):
    """Convolutions one after the other."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(
            nn.Conv2d(2, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(width * 16, 5),
        )


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.b = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.project = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.project is None else self.project(x)
        out = self.b(functional.relu(self.a(x)))
        out += shortcut
        return functional.relu_(out)


class Residual(nn.Module):
    """A stem, three residual blocks inside a stage class of its own, a classifier."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = ResidualBlock(4, 4)
            self.two = ResidualBlock(4, 6)
            self.three = ResidualBlock(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.three(self.two(self.one(x)))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.stage = self.Stage()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage(functional.relu(self.stem(x)))
        return self.fc(x.mean((2, 3)))


class FunctionalResidual(nn.Module):
    """A shortcut in the model's own forward: no module marks the block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = x + self.b(functional.relu(self.a(x)))
        return self.fc(x.mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads the concatenation of all before it."""

    class Layer(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(channels)
            self.squeeze = nn.Conv2d(channels, 4, 1)
            self.grow = nn.Conv2d(4, 2, 3, padding=1)

        def forward(self, features: list[Tensor]) -> Tensor:
            x = functional.relu(self.norm(torch.cat(features, 1)))
            return self.grow(functional.relu(self.squeeze(x)))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.layers = nn.ModuleList(self.Layer(4 + 2 * i) for i in range(3))
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [functional.relu(self.stem(x))]
        for layer in self.layers:
            features.append(layer(features))
        return self.fc(torch.cat(features, 1).mean((2, 3)))


class Inception(nn.Module):
    """Two blocks of parallel branches."""

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.one = nn.Conv2d(channels, 2, 1)
            self.three = nn.Sequential(
                nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1)
            )
            self.five = nn.Sequential(
                nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 5, padding=2)
            )

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(torch.cat([self.one(x), self.three(x), self.five(x)], 1))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.blocks = nn.Sequential(self.Block(4), self.Block(6))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))


class VisionTransformer(nn.Module):
    """Patches, two pre-norm transformer blocks, a class token."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.norm2 = nn.LayerNorm(width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            )

        def forward(self, x: Tensor) -> Tensor:
            batch, tokens, width = x.shape
            qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, 2, width // 2)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            attended = functional.scaled_dot_product_attention(q, k, v)
            x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
            return x + self.mlp(self.norm2(x))

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.ModuleList(self.Block(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Windows(nn.Module):
    """Blocks that work on all windows of all images as one batch, between convolutions on images."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.up = nn.Linear(width, 2 * width)
            self.down = nn.Linear(2 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(functional.gelu(self.up(x))).reshape(x.shape[0], -1, x.shape[2])

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.blocks = nn.Sequential(self.Block(4), self.Block(4))
        self.out = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        windows = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(-1, 16, 4)
        windows = self.blocks(windows).reshape(x.shape[0], 64, 4)
        x = self.out(windows.transpose(1, 2).reshape(x.shape))
        return self.fc(x.mean((2, 3)))


class TwoOutputs(nn.Module):
    """An auxiliary classifier in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.auxiliary = nn.Linear(4, 5)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu(self.stem(x))
        auxiliary = self.auxiliary(x.mean((2, 3)))
        x = functional.relu(self.body(x))
        return self.fc(x.mean((2, 3))), auxiliary


class Shared(nn.Module):
    """One convolution called twice, another between the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.between = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(self.twice(x))
        x = functional.relu(self.between(x))
        x = functional.relu(self.twice(x))
        return self.fc(x.mean((2, 3)))


class BranchOnData(nn.Module):
    """Control flow that depends on values: cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(2, 4, 3), _Branch())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class _Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class WritesIntoSlices(nn.Module):
    """Changes parts of tensors that are read afterwards; the first as temporal shift modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        shifted = torch.zeros_like(x)
        shifted[:, :2, 1:] = x[:, :2, :-1]
        shifted[:, 2:] = x[:, 2:]
        x = self.body(shifted)
        x[:, 0].relu_()
        x[:, 1:, ::2] += x.mean((2, 3), keepdim=True)[:, :3]
        return self.fc(x.mean((2, 3)))


class ChangesWhatAViewReads(nn.Module):
    """A view from before a change is read after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        first = x[:, :1]
        x.relu_()
        return x + first


TOYS: dict[str, type[nn.Module]] = {
    "chain": Chain,
    "dense": Dense,
    "functional-residual": FunctionalResidual,
    "inception": Inception,
    "residual": Residual,
    "shared": Shared,
    "two-outputs": TwoOutputs,
    "vit": VisionTransformer,
    "windows": Windows,
    "writes-into-slices": WritesIntoSlices,
}


def make(name: str, seed: int = 0) -> nn.Module:
    """A toy with fixed random weights and batch norm statistics that are not trivial."""
    torch.manual_seed(seed)
    model = TOYS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that repeat with their seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count: int = 16, seed: int = 0) -> Tensor:
    return normal(count, 2, 8, 8, seed=seed)
