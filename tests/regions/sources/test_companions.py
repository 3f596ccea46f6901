"""Files beside images: where they are looked for, and of which size they must be."""

import pytest

from rmae_d2.errors import UserError
from rmae_d2.regions.sources.companions import check_folder, check_size, find_companion


def found(folder, file_name, image_id=None):
    sample = {"file_name": file_name, "image_id": image_id}
    return find_companion(str(folder), sample, ".npy", "Name the folder.")


def test_files_lie_as_the_images_or_in_one_folder(tmp_path):
    (tmp_path / "n01").mkdir()
    (tmp_path / "b.npy").touch()
    assert found(tmp_path, "/photos/n01/b.JPEG", "n01/b.JPEG") == str(tmp_path / "b.npy")
    (tmp_path / "n01" / "b.npy").touch()
    assert found(tmp_path, "/photos/n01/b.JPEG", "n01/b.JPEG") == str(tmp_path / "n01" / "b.npy")
    assert found(tmp_path, "/photos/b.JPEG", 7) == str(tmp_path / "b.npy")


@pytest.mark.parametrize("image_id", ["/elsewhere/c.jpg", "../elsewhere/c.jpg"])
def test_image_ids_do_not_lead_out_of_the_folder(tmp_path, image_id):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.npy").touch()
    with pytest.raises(
        FileNotFoundError, match="for the image /elsewhere/c.jpg.*Name the"
    ) as caught:
        found(tmp_path / "maps", "/elsewhere/c.jpg", image_id)
    assert str(tmp_path / "maps" / "c.npy") in str(caught.value)
    assert "elsewhere/c.npy" not in str(caught.value)


def test_folders_and_sizes(tmp_path):
    assert check_folder(tmp_path, "") == str(tmp_path)
    assert check_folder("s3://bucket", "") == "s3://bucket"
    with pytest.raises(UserError, match=r"no folder .*absent\. Name it"):
        check_folder(tmp_path / "absent", "Name it")
    check_size("a.npy", (4, 6), (4, 6, 3))
    with pytest.raises(UserError, match=r"a.npy is of size \(3, 6\).*\(4, 6\)\. Make"):
        check_size("a.npy", (3, 6), (4, 6, 3))
    with pytest.raises(UserError, match="turned by its EXIF orientation. Copy it"):
        check_size("a.npy", (6, 4), (4, 6, 3), "Copy it")
