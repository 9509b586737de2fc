"""The page of `llx report`: what stands in it, and that nothing of a result becomes markup."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import altair as alt
import jsonschema
import pytest

from llx.errors import Lacking
from llx.reports.compare.gates import Gate
from llx.reports.compare.pairs import beside, sides
from llx.reports.html import shell
from llx.reports.html.charts import specification, vega_script
from llx.reports.html.page import page_html, write_page
from llx.reports.html.plots import MOST_ROWS, changes_plot, plots_of, quantile
from llx.reports.html.runs import Looks, colours_of, runs_of
from llx.result import FailedTest
from tests.reports.made import CRASH, ERROR, HOSTILE, RESULT, in_turns, result, row, with_texts
from tests.reports.pairs import on

EVERYTHING = [
    result("torch", kld=0.0, speed=20.0, depths=(0, 1024)),
    *in_turns(depths=(0, 1024)),
    result("ort", "int8", speed=70.0, kld=3e-3),
    replace(result("trt"), speed=[], fidelity=None, memory=None, error=ERROR),
]
KINDS = {"fidelity", "against", "roofline", "latency", "depth", "phases", "positions"}


class Read(HTMLParser):
    """The elements of a page with their attributes, the text of its scripts, its tables by name."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.tables, self.text = [], [], {}, []
        self.inside, self.cell = "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")
        elif tag == "table":
            self.rows = self.tables[dict(attributes)["id"]] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            known = dict(attributes)
            number = "n" in known.get("class", "").split()
            self.cell = known.get("data-sort") if number else None, []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            sort, said = self.cell
            self.rows[-1].append("".join(said) if sort is None else float(sort))
            self.cell = None
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.cell:
            self.cell[1].append(data)
        if self.inside not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(autouse=True)
def a_short_script(monkeypatch):
    """Vega itself is a megabyte that no test here runs; its bundle is made once, below."""
    monkeypatch.setattr(shell, "vega_script", lambda: "window.vegaEmbed = null")


def read(results, baseline=()):
    return Read(page_html(results, baseline=baseline))


def said(results):
    return " ".join(" ".join(read(results).text).split())


def plots(results):
    """The plots of a page about one model, by the names that they have there."""
    looks = Looks.of([one.engine for one in results], [one.precision for one in results])
    compared = beside(*sides(results))
    pairs = compared.pairs if compared else ()
    found = {f"plot-0-{plot.kind}": plot for plot in plots_of(runs_of(results, looks, pairs))}
    if compared:
        found["plot-against"] = changes_plot(compared.changes, looks)
    return found


def plot(kind, results):
    (found,) = (plot for plot in plots(results).values() if plot.kind == kind)
    return found


def kinds(results):
    return {plot.kind for plot in plots(results).values()}


def test_the_verdict_stands_before_the_tables_and_they_before_the_plots():
    text = page_html(EVERYTHING)
    places = [text.index(part) for part in ('id="verdict"', 'id="model-0"', 'id="plot-0-')]
    assert places == sorted(places)


def test_a_row_that_is_invalid_is_named_first_and_has_no_number():
    bad = row("tg64", 1234.0, osl=64, valid=False, invalid_reason="1 repetitions")
    found = replace(result(), speed=[bad])
    text = said([found])
    assert "1 of 1 rows is INVALID" in text
    assert "ort fp32, tg64 : 1 repetitions" in text
    assert "1234" not in text
    assert not {"roofline", "latency", "fidelity"} & kinds([found])


def test_an_engine_without_numbers_says_why():
    text = said(EVERYTHING)
    assert "REGRESSED: pp256 on ort, tg64 on ort, tg64 @ d1024 on ort; 3 regressed" in text
    assert "All 11 rows are valid; no numbers from trt." in text
    assert "engine trt is not here: install it" in text


def test_what_was_run_and_where_stands_on_the_page():
    text = said([RESULT])
    for part in (RESULT.environment.device, "2026-11-24 00:00", RESULT.command, "numpy 2"):
        assert part in text


def test_precisions_of_a_model_share_a_table():
    tables = read([*EVERYTHING, result(model="other")]).tables
    rows = [[cells[0], cells[1]] for cells in tables["model-0"][1:]]
    assert rows == [[made.engine, made.precision] for made in EVERYTHING]
    assert len(tables["model-1"]) == 2


def test_runs_of_one_engine_and_precision_are_told_apart():
    looks = Looks.of(["ort", "trt"], ["fp32"])
    labels = [run.label for run in runs_of([result(), result(), result("trt")], looks)]
    assert labels == ["ort fp32", "ort fp32 #2", "trt fp32"]


def test_a_column_without_values_is_left_out():
    headings = read([result()]).tables["model-0"][0]
    assert "energy mJ/tok" not in headings
    assert "energy mJ/tok" in read([RESULT]).tables["model-0"][0]


def test_every_plot_is_made_where_there_is_data_for_it():
    assert kinds(EVERYTHING) == KINDS
    alone = replace(result(), fidelity=None)
    assert kinds([alone]) == {"roofline", "latency"}
    assert kinds([EVERYTHING[-1]]) == set()


def test_a_page_without_plots_has_no_script_of_theirs():
    assert len(read([EVERYTHING[-1]]).scripts) == len(read(EVERYTHING).scripts) - 1


def test_the_data_of_every_plot_is_its_table():
    found = read(EVERYTHING)
    specs = json.loads(found.scripts[0])
    assert len(specs) == len(KINDS)
    for name, plot in plots(EVERYTHING).items():
        drawn = specs[name]["datasets"]["rows"]
        headings, *rows = found.tables[name.replace("plot", "data")]
        assert headings == list(plot.columns.values())
        texts = {True: "yes", False: "", None: ""}
        for cells, values in zip(rows, drawn, strict=True):
            shown = [values[field] for field in plot.columns]
            assert cells == [v if type(v) in (int, float) else texts.get(v, v) for v in shown]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_specification_is_by_the_schema(kind):
    made = plot(kind, EVERYTHING)
    alt.LayerChart.from_dict(specification(made))
    broken = specification(made)
    broken["layer"][0]["mark"]["type"] = "no mark"
    with pytest.raises(jsonschema.ValidationError):
        alt.LayerChart.from_dict(broken)


def test_errors_are_drawn_wherever_a_number_has_them():
    for plot in plots(EVERYTHING).values():
        spec = specification(plot)
        fields = {
            (layer.get("encoding", {}).get("x", {}).get("field"), channel["field"])
            for layer in spec["layer"]
            for key in ("x2", "y2")
            if (channel := layer.get("encoding", {}).get(key)) and "field" in channel
        }
        assert {end for _, end in fields} & {
            *("speed_high", "share_high", "change_high", "x_high", "y_high", "p99"),
        }, plot.kind


def test_the_front_is_what_nothing_beats_in_both():
    made = [
        result("torch", speed=20.0, kld=1e-9),
        result("ort", speed=40.0, kld=1e-5),
        result("trt", speed=30.0, kld=1e-4),
        result("trt-rtx", speed=90.0, kld=1e-2),
    ]
    drawn = plot("fidelity", made)
    assert [row["front"] for row in drawn.rows] == [True, True, False, True]


def test_no_divergence_is_drawn_at_the_edge_of_the_axis_and_keeps_its_value():
    drawn = plot("fidelity", EVERYTHING)
    zero, least = drawn.rows[0], min(row["kld"] for row in drawn.rows[1:])
    assert zero["kld"] == 0
    assert 0 < zero["x"] < least
    assert "drawn at the left edge" in drawn.caption


def test_quantiles_are_those_of_all_decode_steps():
    made = result()
    steps = [[4_000_000, 1_000_000], [2_000_000, 3_000_000]]
    made = replace(made, speed=[replace(made.speed[1], osl=2, step_ns=steps)])
    (drawn,) = plot("latency", [made]).rows
    assert (drawn["steps"], drawn["p50"], drawn["max"]) == (4, 2.5, 4.0)
    assert quantile([1.0, 2.0, 3.0], 0.25) == 1.5


def test_a_requests_prefill_is_no_decode_step():
    made = row("req8:3", 10.0, isl=8, osl=3)
    made = replace(made, step_ns=[[900_000_000, 2_000_000, 4_000_000]])
    drawn = plot("latency", [replace(result(), speed=[made])])
    assert (drawn.rows[0]["steps"], drawn.rows[0]["max"]) == (2, 4.0)


def test_a_precision_has_one_shape_in_every_plot_of_the_page():
    now = [result(speed=40.0), result("ort", "int8", speed=20.0)]
    before = [result(speed=40.0), result("ort", "int8", speed=80.0)]
    specs = json.loads(read(now, before).scripts[0])
    shapes = {
        (row["name"].split()[1], row["shape"])
        for name in ("plot-against", "plot-0-roofline")
        for row in specs[name]["datasets"]["rows"]
        if "baseline" not in row["name"]
    }
    assert shapes == {("fp32", 0), ("int8", 1)}  # though int8 regressed, and stands first in one


def test_an_engine_has_one_colour_on_every_page():
    alone, beside = colours_of(["ort"]), colours_of(["fake", "torch", "ort", "trt"])
    assert alone["ort"] == beside["ort"]
    assert len(set(beside.values())) == 4


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_result_becomes_markup(text):
    made = [
        *in_turns(depths=(0, 1024)),
        replace(result(), error=ERROR, unjudged="x"),
        replace(result(), speed=[replace(RESULT.speed[0], valid=False, invalid_reason="x")]),
    ]
    hostile, plain = (read([with_texts(m, t) for m in made]) for t in (text, "plain"))
    structure = [
        [(tag, sorted(attributes)) for tag, attributes in found.elements]
        for found in (hostile, plain)
    ]
    assert structure[0] == structure[1]
    tags = {tag for tag, _ in hostile.elements}
    assert not tags & {"img", "svg", "iframe", "object", "form", "a"}
    assert not [name for _, names in hostile.elements for name in names if name.startswith("on")]
    assert hostile.scripts[1:] == plain.scripts[1:]
    assert not set(hostile.scripts[0]) & set("<>&\u2028\u2029")
    json.loads(hostile.scripts[0])


def strings(value):
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("text", HOSTILE)
def test_a_specification_holds_texts_of_results_as_data_only(text):
    made = [with_texts(made, text) for made in in_turns(depths=(0, 1024))]
    found = plots([*made, result("torch", depths=(0, 1024))]).values()
    assert {plot.kind for plot in found} == KINDS
    for plot in found:
        spec = specification(plot)
        assert any(text in said for said in strings(spec.pop("datasets")))
        assert not [said for said in strings(spec) if text[:8] in said]


@pytest.mark.parametrize("character", ["\u202e", "\x1b", "\x00", "\u2066", "\x9b"])
def test_what_cannot_be_seen_is_shown(character):
    shown = page_html([with_texts(result(), f"gnp{character}exe")])
    assert character not in shown
    assert "gnp\ufffdexe" in shown


def test_the_page_asks_no_network_and_allows_only_its_own_scripts():
    found = read(EVERYTHING)
    policy = next(a["content"] for _, a in found.elements if "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert policy.count("'sha256-") == 2
    places = [a[name] for _, a in found.elements for name in ("src", "href", "action") if name in a]
    assert places == ["data:,"]


def test_a_hundred_runs_are_a_small_page():
    engines, precisions = ("torch", "ort", "trt", "trt-rtx"), ("fp32", "fp16", "int8", "int4", "w8")
    made = [
        result(engine, precision, model, speed=20.0 + i, steps=512, depths=(0, 1024))
        for i, model in enumerate(("a", "b", "c", "d", "e"))
        for engine in engines
        for precision in precisions
    ]
    assert len(made) == 100
    vega = 1_500_000  # at most; held by the next test
    assert len(page_html(made).encode()) + vega < 5_000_000
    page_html([replace(m, artifact=made[0].artifact, precision="fp32") for m in made])


def test_the_plots_script_fits_into_a_page_and_ends_no_element():
    script = vega_script()
    assert "vegaEmbed" in script
    assert len(script) < 1_500_000
    assert "</script" not in shell.script_text(script + "'</script>'").lower()


def test_a_plot_of_too_many_rows_says_what_it_leaves_out():
    made = [result(speed=20.0 + i) for i in range(MOST_ROWS + 5)]
    drawn = plot("fidelity", made)
    assert len(drawn.rows) == MOST_ROWS
    assert f"the first {MOST_ROWS} of {MOST_ROWS + 5} rows" in drawn.caption


def test_a_remark_that_many_share_is_made_once():
    noted = replace(RESULT.environment, notes=["the load was 3.0 before"])
    made = [replace(result(engine), environment=noted) for engine in ("ort", "trt", "torch")]
    text = said(made)
    assert text.count("the load was 3.0 before") == 1
    assert "DOUBTFUL ort fp32; trt fp32; torch fp32 : the load" in text


def test_the_candidate_and_its_baseline_are_named():
    rows = read(in_turns()).tables["model-0"]
    assert rows[0][3] == "run"
    assert [row[3].split("2026")[0] for row in rows[1:]] == ["baseline", "candidate"]


def test_results_beside_a_baselines_file_have_their_verdict_first():
    before, now = result(speed=100.0), result(speed=40.0, kld=4e-2)
    found = read([now, result("torch")], [before])
    text = " ".join(" ".join(found.text).split())
    assert text.index("REGRESSED: ") < text.index("ort fp32, KLD decode : 1.0e-05 nats → 0.04 nats")
    changes = {row[3]: row for row in found.tables["changes"][1:]}
    for measure in ("pp256", "tg64", "KLD prefill", "KLD decode", "PPL ratio prefill"):
        assert changes[measure][0] == "regressed"
    assert changes["artifact bytes"][0] == "no change"
    assert changes["tg64"][4:7] == [
        pytest.approx(before.speed[1].mean, 1e-3),  # geometric means, of which the ratio is
        pytest.approx(now.speed[1].mean, 1e-3),
        pytest.approx(0.4, 0.05),
    ]
    assert "the results' torch with tiny-fp32 is compared with nothing" in text
    labels = [cells[0] for cells in found.tables["tests-0"][1:]]
    assert labels == ["ort fp32 baseline"] * 2 + ["ort fp32"] * 2 + ["torch fp32"] * 2


def test_an_engine_that_a_gate_requires_and_that_is_gone_is_in_the_verdict():
    gates = (Gate(metric="KLD *", kind="deterministic", threshold="10%", required=True),)
    html = page_html([result()], baseline=[result(), result("torch", "int8")], gates=gates)
    found = Read(html)
    assert "torch int8, KLD decode : 1.0e-05 nats → none" in " ".join(" ".join(found.text).split())
    lost = [row for row in found.tables["changes"][1:] if row[1] == "torch"]
    assert [row[0] for row in lost] == ["regressed"] * 2
    assert {row[-1] for row in lost} == {"required: it was not measured"}


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("2026-11-24T09:30:59+00:00", "2026-11-24 09:30 "),
        ("2026-11-24T10:05:00+00:00", "2026-11-24 09:30 to 10:05 "),
        ("2026-11-25T10:05:00+00:00", "2026-11-24 09:30 to 2026-11-25 10:05 "),
    ],
)
def test_when_it_was_measured_is_said_in_few_words(last, said):
    times = "2026-11-24T09:30:00+00:00", last
    found = read([replace(result(), created=created) for created in times])
    assert f"When {said}System" in " ".join(" ".join(found.text).split())


def test_labels_of_what_is_not_on_the_front_stand_on_both_sides_below():
    made = [result(speed=speed, kld=kld) for speed, kld in ((40, 1e-5), (30, 1e-4), (25, 1e-3))]
    assert [row["label_at"] for row in plot("fidelity", made).rows] == ["above", "left", "right"]


def test_what_else_was_not_the_same_is_said():
    before = on("another machine", replace(result(), llx="0.0.9"))
    found = read([result()], [before])
    assert ["llx", "0.0.9", "0.1.0"] in found.tables["settings"]
    changes = {row[3]: row for row in found.tables["changes"][1:]}
    assert changes["tg64"][0] == "not comparable"
    assert changes["KLD decode"][0] == "no change"


def test_a_gate_decides_what_the_page_says():
    pair = [result(speed=30.0)], [result(speed=70.0)]
    gates = (Gate(metric="KLD *", kind="deterministic", threshold="5%"),)
    found = page_html(pair[0], baseline=pair[1], gates=gates)
    assert "no regression" in found
    assert "no gate" in found  # of both speeds, which are less and fail nothing
    assert "REGRESSED: pp256 on ort, tg64 on ort" in page_html(pair[0], baseline=pair[1])


def test_speeds_of_two_runs_that_decide_nothing_are_one_remark():
    text = " ".join(page_html([result()], baseline=[result(speed=60.0)]).split())
    assert text.count("INCONCLUSIVE</b>") == 1
    assert "ort fp32, pp256; ort fp32, tg64" in text


def test_a_test_that_failed_has_a_row():
    failed = replace(result(), failed=[FailedTest(test="tg512", error=CRASH)])
    (row,) = (row for row in read([failed]).tables["tests-0"] if "tg512" in row)
    assert row[-2:] == ["FAILED", "the process died: look above"]


def test_files_that_have_no_engine_in_common_are_shown_beside_one_another():
    found = read([result()], [result("torch")])
    assert "changes" not in found.tables
    assert [row[0] for row in found.tables["model-0"][1:]] == ["ort", "torch"]


def test_many_changes_are_counted_and_stand_in_the_table():
    before = result(speed=100.0, depths=tuple(range(0, 20)))
    now = result(speed=40.0, depths=tuple(range(0, 20)))
    found = read([now], [before])
    assert "9 more, in the table below" in " ".join(found.text)
    assert sum(row[0] == "regressed" for row in found.tables["changes"]) == 21


def test_a_roofline_of_too_many_rows_keeps_one_test_of_each_kind():
    made = [result(speed=20.0 + i, depths=(0, 8, 16)) for i in range(20)]
    drawn = plot("roofline", made)
    assert {row["test"] for row in drawn.rows} == {"pp256", "tg64"}
    assert "one test of each kind of a run, 40 of 80 rows" in drawn.caption


def test_a_machine_without_the_plots_packages_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Lacking, match="pip install 'altair"):
        write_page([RESULT], tmp_path)
    assert not list(tmp_path.iterdir())
