"""What logs say, in the words of this and earlier versions, of Detectron2, or cut anywhere."""

from datetime import datetime, timezone

from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.report.run_log import date_of, read_log

TRAIN = "rmae_d2.engine.train"
LOG = f"""\
[12/31 23:59:00] {TRAIN} DEBUG: environment:
--------------  -------------------------------------
Python          3.11.7 (main, May  9 2026) [GCC 12.2]
detectron2      0.6 @/home/me/site-packages/detectron2
PyTorch         2.11.0+cu130 @/home/me/site-packages/torch
GPU available   Yes
GPU 0,1         NVIDIA H100 80GB HBM3 (arch=9.0)
--------------  -------------------------------------
[12/31 23:59:00] {TRAIN} INFO: rmae_d2 0.1.0, commit abc; started alone; command line: \
{{'config_file': 'a.py', 'resume': False, 'opts': ['x=1', "y='; command line: {{'"]}}
[12/31 23:59:01] {TRAIN} INFO: RMAE: 3.5 M trainable parameters; 900 images; 16 images a step; bf16 on cuda:0
[12/31 23:59:02] rmae_d2.engine.progress INFO: iter: 9  eta: 0:02:40  total_loss: 1.887
[12/31 23:59:03] rmae_d2.engine.progress WARNING: waits 40% of its time
[12/31 23:59:04] rmae_d2.engine.progress WARNING: waits 42% of its time
[01/01 00:01:00] rmae_d2.engine.hooks WARNING: stopped by SIGTERM after iteration 19; continue with --resume
[01/01 00:02:00] {TRAIN} DEBUG: environment:
nothing
[01/01 00:02:00] {TRAIN} INFO: rank 0 of 1; command line: {{'resume': True, 'opts': []}}
[01/01 00:02:01] rmae_d2.engine.checkpointer INFO: resumed at iteration 20 from /x/model_0000019.pth
[01/01 00:02:02] d2.utils.events INFO:  eta: 0:01:09  iter: 29  loss_pixel: 0.7053
[01/01 00:02:03] d2.engine.train_loop ERROR: Exception during training:
Traceback (most recent call last):
  File "/x/y.py", line 1
ValueError: no luck
[01/01 00:03:00] {TRAIN} INFO: started alone; command line: {{'eval_only': True}}
[01/01 00:03:01] d2.evaluation.testing INFO: copypaste: Task: knn
[01/01 00:03:01] d2.evaluation.testing INFO: copypaste: top1,top5
[01/01 00:03:01] d2.evaluation.testing INFO: copypaste: 26.8775,67.1937
[01/01 00:03:02] {TRAIN} INFO: done:
  checkpoint: /x/model_final.pth
"""


def write(folder, text):
    path = folder / "log.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_starts(tmp_path):
    first, second, third = read_log(write(tmp_path, LOG))
    assert (first.began, first.seconds) == ("12/31 23:59:00", 120)  # over New Year
    assert first.environment == {
        "Python": "3.11.7",
        "PyTorch": "2.11.0+cu130",
        "Detectron2": "0.6",
        "GPU available": "Yes",
        "GPU 0,1": "NVIDIA H100 80GB HBM3 (arch=9.0)",
    }
    assert (first.code, first.launched) == ("rmae_d2 0.1.0, commit abc", "started alone")
    assert first.overrides == ["x=1", "y='; command line: {'"]
    assert (first.num_images, first.batch_size) == (900, 16)
    assert (first.precision, first.device, first.last_iter) == ("bf16", "cuda:0", 9)
    assert first.outcome == "stopped by SIGTERM after iteration 19"
    assert first.warnings == {"waits 40% of its time": 2}
    assert (second.code, second.launched, second.resumed_at) == ("", "rank 0 of 1", 20)
    assert second.last_iter == 29 and second.outcome == "failed: ValueError: no luck"
    assert third.results == {"knn": {"top1": 26.8775, "top5": 67.1937}}
    assert third.outcome == "finished" and third.environment == {}


def test_no_log(tmp_path):
    assert read_log(tmp_path / "log.txt") == []
    assert read_log(write(tmp_path, "of something else\n")) == []


def test_dates_have_the_year_of_files_of_that_day(tmp_path):
    first, second, _ = read_log(write(tmp_path, LOG))
    epoch = int(datetime(2027, 1, 1, 3, tzinfo=timezone.utc).timestamp())
    assert date_of(first, [epoch]) == "2026-12-31 23:59:00"
    assert date_of(second, [epoch]) == "2027-01-01 00:02:00"
    assert date_of(first, [epoch + 9 * 86400]) == date_of(first, []) == "12/31 23:59:00"


@given(st.integers(0, len(LOG)), st.text(max_size=40), st.integers(0, 30))
def test_any_cut_log_reads(tmp_path_factory, cut, noise, repeats):
    folder = tmp_path_factory.mktemp("log")
    text = LOG[:cut] + noise.encode(errors="replace").decode() + LOG[cut + repeats :]
    starts = read_log(write(folder, text))
    assert len(starts) <= 5
    for start in starts:
        assert start.seconds >= 0
