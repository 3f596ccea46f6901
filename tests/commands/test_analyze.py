"""What models cost, by the command line."""


def test_one_model_with_an_override(cli):
    given = ("--config-file", "pretrain/rmae_vitb.py", "model.region_branch.neck_depth=8")
    code, out, error = cli("analyze", *given)
    assert code == 0, error
    assert "| all | 113.738 | 10.24" in " ".join(out.split()) and "MiB per image" in out


def test_table(cli):
    code, out, error = cli("analyze", "--table", "pretrain/mae_vitb.py", "pretrain/rmae_vitb.py")
    assert code == 0, error
    _, _, mae, rmae = (" ".join(line.split()) for line in out.splitlines())
    assert "| 111.66 | 9.675 | +0.00 % |" in mae and "| 112.35 | 9.903 | +2.36 % |" in rmae


def test_a_detector(cli):
    code, _, error = cli("analyze", "--config-file", "demo/vitdet_tiny_scenes.py")
    assert code == 1 and error.startswith("error: ") and "not a pre-training model" in error
