import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn


class LabelMapHead(nn.Module):
    """Predicts the one-channel, real-valued label map from one feature map (section 4).

    3x3 convolutions, bilinear upsampling to ``common_stride``, one more 3x3 convolution, and a 1x1 convolution to the
    single channel, as in the authors' code.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        in_feature: str,
        common_stride: int,
        conv_dim: int,
        num_convs: int,
        norm: str,
        coordinates: bool,
    ):
        """``conv_dim`` and ``norm``, see :func:`detectron2.layers.get_norm`, are those of the hidden layers, of which
        ``num_convs`` come before the upsampling; ``common_stride``, in image pixels, divides the feature's stride; with
        ``coordinates`` the features have x and y in [-1, 1]."""
        super().__init__()
        if in_feature not in input_shape:
            have = sorted(input_shape)
            raise ValueError(f"MODEL.LABEL_MAP_HEAD.IN_FEATURE is {in_feature!r}, but the backbone gives {have}")
        feature = input_shape[in_feature]
        if common_stride < 1 or feature.stride % common_stride:
            needed = f"a divisor of {feature.stride}, the stride of {in_feature!r}"
            raise ValueError(f"MODEL.LABEL_MAP_HEAD.COMMON_STRIDE is {common_stride}; it must be {needed}")
        self.in_feature = in_feature
        self.common_stride = common_stride
        self.scale_factor = feature.stride // common_stride
        self.coordinates = coordinates

        def conv(in_channels: int) -> Conv2d:
            layer = Conv2d(
                in_channels, conv_dim, 3, padding=1, bias=not norm, norm=get_norm(norm, conv_dim), activation=F.relu
            )
            c2_msra_fill(layer)
            return layer

        channels = [feature.channels + 2 * coordinates] + [conv_dim] * num_convs
        self.convs = nn.Sequential(*map(conv, channels[:-1]))
        self.fine_conv = conv(channels[-1])
        self.predictor = Conv2d(conv_dim, 1, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {key.lower(): value for key, value in cfg.MODEL.LABEL_MAP_HEAD.items()} | {"input_shape": input_shape}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps (N, C, H / stride, W / stride) by name -> float32 (N, H / common_stride, W / common_stride): the
        map before the ReLU, any real value."""
        x = features[self.in_feature]
        if self.coordinates:  # x and y of every cell's center, in [-1, 1]
            sides = ((torch.arange(n, device=x.device, dtype=x.dtype) + 0.5) * (2 / n) - 1 for n in x.shape[2:])
            grid = torch.stack(torch.meshgrid(*sides, indexing="ij")[::-1])
            x = torch.cat([x, grid.expand(x.shape[0], -1, -1, -1)], dim=1)
        x = self.convs(x)
        if self.scale_factor > 1:
            x = F.interpolate(x, scale_factor=self.scale_factor, mode="bilinear", align_corners=False)
        return self.predictor(self.fine_conv(x))[:, 0].float()
