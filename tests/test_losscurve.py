from io import StringIO

from rich.console import Console

from streamapp.losscurve import BLOCKS, LossCurve


def summary(rows: int, loss: float) -> dict[str, object]:
    versions = {"v1": {"rows": rows, "loss": loss, "first": 0.0, "last": 1.0}}
    return {"models": {"m": {"groups": {"champion": {"versions": versions}}}}}


def line(curve: LossCurve) -> str:
    text = StringIO()
    Console(width=100, file=text).print(curve.picture())
    return text.getvalue()


def test_each_look_shows_the_mean_loss_since_the_last_one() -> None:
    curve = LossCurve()
    curve.look(summary(10, 0.1))  # 10 rows, sum 1
    curve.look(summary(20, 0.45))  # 10 more rows, sum 9: mean .8
    assert "now 0.800" in line(curve)
    assert BLOCKS[1] + BLOCKS[-1] in line(curve)


def test_look_without_new_rows_adds_nothing() -> None:
    curve = LossCurve()
    curve.look(summary(10, 0.1))
    curve.look(summary(10, 0.1))
    assert line(curve).split() == ["loss", "of", "champion", BLOCKS[-1], "now", "0.100"]


def test_nothing_seen_shows_nothing() -> None:
    assert line(LossCurve()).strip() == ""
