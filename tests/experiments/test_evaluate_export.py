import numpy as np
import pytest

from dvis_d2.data.cropped_masks import CroppedMasks
from dvis_d2.inference.seams import Found
from experiments.benchmarks import export as benchmark
from experiments.evaluate_export import main, matched


def found(masks):
    return Found(CroppedMasks.from_masks(masks), np.ones(len(masks), np.float32), np.zeros(len(masks), int))


def test_masks_match_by_their_pixels_whatever_their_order():
    masks = np.zeros((3, 40, 50), dtype=bool)
    masks[0, 2:22, 2:22] = masks[1, 20:38, 30:48] = masks[2, 5:9, 40:44] = True
    assert matched(found(masks), found(masks[::-1])) == 3
    other = masks.copy()
    other[0, 2, 2:5] = False  # 397 of 400 pixels are left
    other[1, 20] = False  # 17 of 18 rows
    assert matched(found(masks), found(other)) == 2
    assert matched(found(masks), found(masks[:0])) == 0


@pytest.mark.slow
def test_an_export_of_a_packaged_model_finds_the_same(last_json):
    main(["--models", "shapes", "--formats", "float32", "torchscript", "int8", "--num-images", "3"])
    *rows, quantized = last_json()["rows"]
    for row in rows:
        assert row["label_map"] < 1e-4 and row["proposals"] == row["same_masks"] == 100 and row["masks"] > 3
        assert row["AP_torch"] == pytest.approx(row["AP_runtime"], abs=0.1)
    assert 1e-3 < quantized["label_map"] < 2 and quantized["mib"] < rows[0]["mib"] / 2


@pytest.mark.slow
def test_the_benchmark_has_a_row_for_every_method():
    import argparse

    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    result = benchmark.run(parser.parse_args("--sizes 96 --repeats 1 --threads 1 --device cpu".split()))
    assert set(result["rows"][0]["methods"]) == {"torch", "runtime", "Mask R-CNN"}
    assert result["first_masks"]["runtime"]["peak_mib"] < result["first_masks"]["torch"]["peak_mib"]
