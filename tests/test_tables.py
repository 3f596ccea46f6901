from rmae_d2.tables import table


def test_cells_stand_as_they_are_given():
    rows = [["1e5", 12, 0.126], ["b", None, float("nan")]]
    assert table(["class", "pixels", 7], rows).splitlines() == [
        "| class   |   pixels |    7 |",
        "|:--------|---------:|-----:|",
        "| 1e5     |       12 | 0.13 |",
        "| b       |        - |  nan |",
    ]
    assert table(["a", "b"], [["x", "1.50"]], left=(0, 1)).splitlines()[2] == "| x   | 1.50 |"
    assert table(["a"], []).startswith("| a")
