"""Networks as users of other libraries write them, with those libraries' names: none of our code is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """The block of learn2learn's CNN4; with `stride` 2 it strides instead of pooling, as its OmniglotCNN."""

    def __init__(self, into: int, out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.normalize = nn.BatchNorm2d(out)
        self.conv = nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.normalize(self.conv(x)))
        return F.max_pool2d(h, 2) if self.stride == 1 else h


class CNN4(nn.Module):
    def __init__(self, channels: int, hidden: int, width: int, ways: int, layers: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(*(Block(hidden if i else channels, hidden) for i in range(layers)))
        self.classifier = nn.Linear(width, ways)

    def embed(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.embed(x))


class OmniglotCNN(nn.Module):
    """Its blocks have two names, and its features are a mean over places."""

    def __init__(self, hidden: int, ways: int) -> None:
        super().__init__()
        self.base = nn.Sequential(*(Block(hidden if i else 1, hidden, stride=2) for i in range(4)))
        self.features = nn.Sequential(nn.Identity(), self.base)
        self.classifier = nn.Linear(hidden, ways)

    def embed(self, x: Tensor) -> Tensor:
        return self.features(x).mean(dim=(2, 3))


class Wrapper(nn.Module):
    """As learn2learn's MAML holds a model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Sequences(nn.Module):
    """The ProtoNet that most people write: blocks of conv, norm, ReLU and pooling in sequence."""

    def __init__(self, channels: int, hidden: int, *, bias: bool = True, layers: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(hidden if i else channels, hidden, 3, padding=1, bias=bias),
                    nn.BatchNorm2d(hidden),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for i in range(layers)
            )
        )

    def embed(self, x: Tensor) -> Tensor:
        return self.encoder(x).flatten(1)


class FewShotClassifier(nn.Module):
    """As easyfsl's PrototypicalNetworks holds a backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


class Residual(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv3, self.bn3 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.downsample = nn.Sequential(nn.Conv2d(into, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.bn1(self.conv1(x)), 0.1)
        h = F.leaky_relu(self.bn2(self.conv2(h)), 0.1)
        h = self.bn3(self.conv3(h)) + self.downsample(x)
        return F.max_pool2d(F.leaky_relu(h, 0.1), 2)


class ResNet12(nn.Module):
    """easyfsl's feat_resnet12."""

    def __init__(self, widths: Sequence[int] = (4, 5, 6, 7)) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(Residual(into, out)) for into, out in zip((3, *widths), widths, strict=False)
        )

    def embed(self, x: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(-2, -1))


Config = list[tuple[str, list[Any]]]


class Learner(nn.Module):
    """MAML-Pytorch's: a list of steps, whose tensors lie in two flat lists."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.vars, self.vars_bn = config, nn.ParameterList(), nn.ParameterList()
        for name, given in config:
            if name in ("conv2d", "linear"):
                self.vars.append(nn.Parameter(torch.empty(*given[: 4 if name == "conv2d" else 2])))
                self.vars.append(nn.Parameter(torch.empty(given[0])))
            elif name == "bn":
                self.vars.extend([nn.Parameter(torch.empty(given[0])), nn.Parameter(torch.empty(given[0]))])
                running = (torch.zeros(given[0]), torch.ones(given[0]))
                self.vars_bn.extend([nn.Parameter(one, requires_grad=False) for one in running])

    def embed(self, x: Tensor, *, training: bool) -> Tensor:
        own, statistics = iter(self.vars), iter(self.vars_bn)
        for name, given in self.config:
            if name == "conv2d":
                x = F.conv2d(x, next(own), next(own), stride=given[4], padding=given[5])
            elif name == "bn":
                gamma, beta, mean, var = next(own), next(own), next(statistics), next(statistics)
                x = F.batch_norm(x, mean.clone(), var.clone(), gamma, beta, training=training)
            elif name == "relu":
                x = F.relu(x)
            elif name == "max_pool2d":
                x = F.max_pool2d(x, *given)
            elif name == "flatten":
                return x.flatten(1)
        raise AssertionError("no flatten")


def blocks(order: Sequence[str], *, width: int, padding: int, last: int, head: tuple[int, int] | None) -> Config:
    """Write the list that a Learner of four blocks takes."""
    made: Config = []
    for block in range(4):
        steps: dict[str, list[Any]] = {
            "conv2d": [width, width if block else 3, 3, 3, 1, padding],
            "relu": [True],
            "bn": [width],
            "max_pool2d": [2, last if block == 3 else 2, 0],
        }
        made += [("conv2d", steps["conv2d"]), *((name, steps[name]) for name in order)]
    return [*made, ("flatten", []), *([] if head is None else [("linear", list(head))])]


def filled(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every tensor values of its own in float64, running statistics too."""
    rng = torch.Generator().manual_seed(seed)
    net.double()
    with torch.no_grad():
        for name, value in net.state_dict(keep_vars=True).items():
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=rng, dtype=torch.float64)
                positive = name.endswith("running_var") or ("vars_bn" in name and int(name.rpartition(".")[2]) % 2)
                value.copy_(0.5 + drawn.abs() if positive else 0.4 * drawn + (0.6 if value.dim() == 1 else 0))
    return net.eval()


def mine(hidden: int = 4) -> nn.Module:
    """Build a strided network of one's own, which conv4 cannot stand for."""

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Sequential(*(Block(hidden if i else 1, hidden, stride=2) for i in range(3)))
            self.drop = nn.Dropout(0.5)
            self.last = nn.Sequential(nn.Conv2d(hidden, 2 * hidden, 2), nn.GroupNorm(2, 2 * hidden))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.drop(self.base(x))).mean(dim=(2, 3))

    return Mine()
