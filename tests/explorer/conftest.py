import threading

import pytest


@pytest.fixture
def explorer(drawn):
    from dvis_d2.explorer.session import Explorer, read_truth
    from dvis_d2.inference.sources import find_sources

    (drawn / "thresholds.yaml").unlink(missing_ok=True)
    found = Explorer(str(drawn / "model.safetensors"), find_sources([str(drawn / "drawn.json")])[0], device="cpu")
    found.truth = read_truth(str(drawn / "drawn.json"), found.class_names)
    return found


@pytest.fixture
def page(explorer):
    from dvis_d2.explorer.server import Page

    with Page(explorer) as served:
        thread = threading.Thread(target=served.run)
        thread.start()
        try:
            yield served
        finally:
            served.stop()
            thread.join(10)
