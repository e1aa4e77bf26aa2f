from PIL import Image

from experiments.pictures import main


def test_the_pictures_of_the_documents_are_drawn(tmp_path):
    main(["--output", str(tmp_path)])
    drawn = sorted(tmp_path.iterdir())
    assert [path.stem for path in drawn] == ["film", "method", "nuclei", "panels", "shapes"]
    assert all(Image.open(path).width > 900 and path.stat().st_size < 200_000 for path in drawn)
