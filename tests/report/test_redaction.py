"""No paths of a machine, and nothing else lost."""

from pathlib import Path

import pytest

from rmae_d2.report.redaction import Redaction

SAFE = Redaction(Path("/home/me/my runs/one"), ["/data/coco", "/w/model.pth?x", 3, None, "rel/x"])


@pytest.mark.parametrize(
    "text, shown",
    [
        ("saved /home/me/out/model.pth.", "saved …/model.pth."),
        ("open('/home/me/a b/c.jpg')", "open('…/c.jpg')"),
        ("in /home/me/my runs/one/log.txt, line 3", "in …/one/log.txt, line 3"),
        ("--root=/home/me/photos", "--root=…/photos"),
        ("file:///home/me/x.png", "…/x.png"),
        (r"at C:\Users\me\x.png", "at …/x.png"),
        (
            "of /data/coco/train/1.jpg and /data/coco2/1.jpg",
            "of /data/coco/train/1.jpg and …/1.jpg",
        ),
        ("/w/model.pth", "/w/model.pth"),
        ("16.8 images/s, 1/2, and/or ../x ~/y a/b", "16.8 images/s, 1/2, and/or ../x ~/y a/b"),
        ("https://example.org/a/b.pth s3://bucket/x", "https://example.org/a/b.pth s3://bucket/x"),
        ("</pre> / //", "</pre> / //"),
    ],
)
def test_paths(text, shown):
    assert SAFE(text) == shown


def test_the_folder_stays_where_the_config_names_it():
    safe = Redaction(Path("/home/me/my runs/one"), ["/home/me/my runs/one"])
    assert safe("in '/home/me/my runs/one/x'") == "in '/home/me/my runs/one/x'"
