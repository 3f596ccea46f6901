import json

import pytest

from rmae_d2.errors import AnnotationError, UserError
from rmae_d2.photos.inputs import check_apart, list_inputs


@pytest.fixture
def photos(tmp_path, make_photos):
    folder = make_photos(tmp_path / "photos", 3)
    make_photos(folder / "more", 1)
    return folder


def write_json(folder, ids, **more):
    images = [
        {"id": identifier, "file_name": f"photo{k:02d}.jpg", "height": 48, "width": 60, **more}
        for k, identifier in enumerate(ids)
    ]
    path = folder / "some.json"
    path.write_text(json.dumps({"images": images}))
    return str(path)


def test_a_folder_keeps_its_sub_folders(photos):
    listed = list_inputs([str(photos)])
    assert [image.image_id for image in listed] == [1, 2, 3, 4]
    assert [image.picture for image in listed] == [
        "more/photo00.jpg",
        "photo00.jpg",
        "photo01.jpg",
        "photo02.jpg",
    ]
    assert listed[1].path == str(photos / "photo00.jpg") and listed[1].size is None


def test_a_json_keeps_its_ids(photos):
    listed = list_inputs([write_json(photos, [139, 17])])
    assert [(i.image_id, i.picture, i.size) for i in listed] == [
        (139, "photo00.jpg", (48, 60)),
        (17, "photo01.jpg", (48, 60)),
    ]
    mixed = list_inputs([write_json(photos, [139, 17]), str(photos / "photo02.jpg")])
    assert [i.image_id for i in mixed] == [1, 2, 3]


def test_image_root(photos, tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    path = write_json(tmp_path / "deep/er", [1])
    with pytest.raises(UserError, match="Say where they are with --image-root /folder"):
        list_inputs([path])
    assert list_inputs([path], str(photos))[0].path == str(photos / "photo00.jpg")


def test_pictures_of_equal_names_are_counted(photos, tmp_path):
    given = [photos / "photo00.jpg", photos / "more/photo00.jpg", tmp_path / "PHOTO00.png"]
    pictures = [image.picture for image in list_inputs([str(path) for path in given])]
    assert pictures == ["photo00.jpg", "photo00_2.jpg", "PHOTO00_3.jpg"]  # in any case of letters


def test_pictures_stay_below_the_output(photos, tmp_path):
    lines = tmp_path / "list.txt"
    lines.write_text(f"{photos}/photo00.jpg\nphotos/../photos/photo01.jpg\nphotos/photo02.jpg\n")
    pictures = [image.picture for image in list_inputs([str(lines)])]
    assert pictures == ["photo00.jpg", "photo01.jpg", "photos/photo02.jpg"]


def test_absent_images_are_left_to_the_reader_or_warned_about(photos, tmp_path, caplog):
    assert [i.path for i in list_inputs(["absent.jpg"])] == ["absent.jpg"]
    lines = tmp_path / "list.txt"
    lines.write_text("photos/photo00.jpg\nphotos/absent.jpg\n")
    assert len(list_inputs([str(lines)])) == 1
    assert "1 of the 2 files" in caplog.text and "absent.jpg" in caplog.text


def test_bad_inputs(photos, tmp_path):
    with pytest.raises(UserError, match="there is no .*nowhere"):
        list_inputs(["nowhere"])
    with pytest.raises(AnnotationError, match="image id '5' twice: photo00.jpg"):
        list_inputs([write_json(photos, [5, 5])])
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(UserError, match="bad.json is not in COCO's format"):
        list_inputs([str(tmp_path / "bad.json")])
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        UserError, match="bad.txt is not in UTF-8|bad.txt is not text|names no image"
    ):
        list_inputs([str(tmp_path / "bad.txt")])


def test_the_output_stays_apart_from_the_inputs(photos, tmp_path):
    folder = [str(photos)]
    listed = list_inputs(folder)
    for inside in (photos, photos / "more", photos / "new/er"):
        with pytest.raises(UserError, match="lies in --input"):
            check_apart(inside, folder, listed, pictures=True)
        check_apart(inside, folder, listed, pictures=False)
    check_apart(tmp_path, folder, listed, pictures=True)
    (tmp_path / "link").symlink_to(photos)
    single = [str(photos / "photo00.jpg")]
    with pytest.raises(UserError, match=r"link/photo00.jpg is an input"):
        check_apart(tmp_path / "link", single, list_inputs(single), pictures=True)
    given = write_json(photos, [1]).replace("some", "images")
    (photos / "some.json").rename(given)
    with pytest.raises(UserError, match=r"images.json is an input and would be overwritten"):
        check_apart(photos, [given], list_inputs([given]), pictures=False)
