import numpy as np
import pytest

REGIONS = np.array(
    [[0, 0, 4, 4], [1, 2, 8, 7], [-3, -3, 2, 12], [5, 5, 5, 5], [6, 6, 2, 2], [20, 20, 30, 30]], np.float32
)
IMAGES = np.array([0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_regions_within_beyond_and_turned_around(agree, mode: str) -> None:
    def build(op, x, regions, images):
        grid = {"output_height": 3, "output_width": 2, "mode": mode}
        return [
            op.RoiAlign(x, regions, images, **grid, coordinate_transformation_mode=place, **more)
            for place, more in (
                ("half_pixel", {"spatial_scale": 1.5}),
                ("half_pixel", {"sampling_ratio": 2, "spatial_scale": 0.5}),
                ("output_half_pixel", {}),
            )
        ]

    x = np.random.default_rng(0).standard_normal((2, 3, 8, 9)).astype(np.float32)
    few = [x[:1, :, 2:], REGIONS[:1], IMAGES[:1]]
    agree(build, x, REGIONS, IMAGES, dims=[("n", 3, "height", "width"), ("regions", 4), ("regions",)], again=[few])
