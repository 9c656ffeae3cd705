"""The page in a browser."""

import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import deltafx
from deltafx.networks import UNIT
from deltafx.scene import scene
from deltafx.views.thinned import thin
from tests.views.browser import chromium, tab
from tests.views.shown import crowded, in_parts, model


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    dm = deltafx.convert(model(), mode="balanced", preprocess=UNIT, options={"profile": True})
    deltafx.html(dm, path, dense=model(), clip=list(scene(5)))
    return path.as_uri()


@pytest.fixture(scope="module")
def opened(browser, address):
    with tab(browser, address) as (page, wrong):
        yield page, wrong


def column(page, field):
    return page.locator(f".tabulator-row .tabulator-cell[tabulator-field={field}]").all_inner_texts()


def test_it_loads_without_complaint_and_without_a_network(opened):
    page, wrong = opened
    assert wrong == []
    assert page.locator("h1").inner_text() == "Two, balanced"
    assert page.locator(".chart canvas").count() == 4
    assert page.locator("#strip img").count() == 7
    assert page.locator("#canvas canvas").count() > 0
    assert "unknown (unknown) runs densely" in page.locator("#hints").inner_text()
    assert page.locator("#sections a").count() == page.locator("main > section").count() == 7


def test_the_table_sorts(opened):
    page, _ = opened
    head = page.locator(".tabulator-col[tabulator-field=macs_mean]")
    for turn, reverse in ((1, False), (2, True)):
        head.click()
        values = [float(text.replace(",", "")) for text in column(page, "macs_mean")]
        assert values == sorted(values, reverse=reverse), turn
    assert len(column(page, "path")) == 8


def test_the_table_filters(opened):
    page, _ = opened
    page.fill("#filter", "blocks relu")
    page.wait_for_function("document.getElementById('count').textContent.startsWith('4 ')")
    assert set(column(page, "path")) == {f"blocks.{i}.{name}" for i in (0, 1) for name in ("first", "second")}
    page.fill("#filter", "no operator is known")  # the reason counts too
    page.wait_for_function("document.getElementById('count').textContent.startsWith('1 of 8')")
    page.fill("#filter", "")


def test_a_node_opens_and_leads_to_its_neighbours(opened):
    page, _ = opened
    for _ in range(20):  # a click is lost while the table is laid out, which takes long on a busy machine
        page.locator(".tabulator-cell", has_text="blocks.0.second").first.click()
        if page.locator("#which").inner_text() == "blocks.0.second":
            break
        page.wait_for_timeout(100)
    assert page.locator("#which").inner_text() == "blocks.0.second"
    facts = page.locator("#facts").inner_text()
    assert "conv2d + add + relu" in facts
    assert "1 × 8 × 32 × 48" in facts
    page.locator("#facts button", has_text="stem").click()
    assert page.locator("#which").inner_text() == "stem"
    page.keyboard.press("Escape")
    assert page.locator("#details").is_hidden()


def test_the_graph_opens_and_closes(opened):
    page, _ = opened
    shown = "cy.nodes().filter((node) => !node.isParent()).map((node) => node.id())"
    assert "blocks.0.first" in page.evaluate(shown)  # a small network is open from the start
    page.click("#close")
    assert "module blocks" in page.evaluate(shown)
    assert "blocks.0.first" not in page.evaluate(shown)
    page.evaluate("details('blocks.1.second')")
    page.click("#find")
    assert page.evaluate("cy.$(':selected').map((node) => node.id())") == ["blocks.1.second"]
    page.evaluate("void cy.getElementById('stem').emit('tap')")
    assert page.locator("#which").inner_text() == "stem"
    page.click("#shut")
    colours = []
    for measure in ("update_rate", "last", "macs", "milliseconds"):
        page.select_option("#by", measure)
        colours.append(page.evaluate("cy.getElementById('unknown').data('fill')"))
    assert len(set(colours)) > 1
    page.click("#open")
    assert len(page.evaluate(shown)) == 9


def test_passes_say_what_they_did(opened):
    page, wrong = opened
    page.locator("#passes summary", has_text="fold_affine").click()
    assert "blocks.0.norm" in page.locator("#passes details[open] table").inner_text()
    assert wrong == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (1280, "dark")])
def test_nothing_is_wider_than_the_screen(browser, address, width, scheme):
    with tab(browser, address, width, 844, scheme) as (page, wrong):
        assert page.evaluate("document.documentElement.scrollWidth") == width
        light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert light == (scheme == "light")
        assert wrong == []


def test_a_model_in_parts_and_without_a_clip(browser, tmp_path):
    deltafx.html(in_parts(), tmp_path / "page.html")
    with tab(browser, (tmp_path / "page.html").as_uri()) as (page, wrong):
        assert wrong == []
        assert page.locator("#speed").count() == page.locator("#where").count() == 0
        assert page.input_value("#by") == "last"
        assert page.locator("#passes h3").all_inner_texts() == ["backbone", "neck"]


def test_a_crowded_graph_is_thinned_as_in_a_picture(browser, tmp_path):
    deltafx.html(crowded(), tmp_path / "page.html")
    thinned = thin(deltafx.to_networkx(crowded()))
    with tab(browser, (tmp_path / "page.html").as_uri()) as (page, wrong):
        page.click("#open")
        lines = page.evaluate("cy.edges().map((edge) => [edge.source().id(), edge.target().id()])")
        assert {tuple(line) for line in lines} == set(thinned.edges)
        told = page.locator("#thinned").inner_text()
        assert told.startswith(f"{thinned.graph['lines_left_out']} lines that follow from others")
        assert wrong == []


def test_what_the_page_shows_is_what_the_report_says(browser, tmp_path, opened):
    """Cell by cell and card by card, to the digits that are shown."""
    page, _ = opened
    told = page.evaluate("data.report")
    by_path = {node["path"]: node for node in told["nodes"]}
    paths = column(page, "path")
    assert set(paths) == set(by_path)
    shown = {"macs_mean": 1e6, "macs_dense": 1e6, "milliseconds_mean": 1, "state_bytes": 1024}
    for field, unit in shown.items():
        for path, text in zip(paths, column(page, field), strict=True):
            value, digits = by_path[path][field], len(text.partition(".")[2])
            assert float(text.replace(",", "")) == pytest.approx((value or 0) / unit, abs=0.51 * 10**-digits), path
    for path, text in zip(paths, column(page, "update_rate_mean"), strict=True):
        assert float(text.split()[0]) == pytest.approx(100 * by_path[path]["update_rate_mean"], abs=0.051)
    whole = page.locator("#subtrees tr").nth(1).locator("td").all_inner_texts()
    assert whole[0] == "all"
    assert float(whole[3].replace(",", "")) == pytest.approx(told["totals"]["macs_mean"] / 1e6, abs=0.051)
    assert float(whole[-1]) == pytest.approx(told["totals"]["milliseconds_mean"], abs=0.0051)
    ours, dense = page.evaluate("[data.run.modes[0], data.run.dense]")
    cards = {card.split("\n", 1)[1]: card.split("\n", 1)[0] for card in page.locator(".card").all_inner_texts()}
    faster = next(text for words, text in cards.items() if words.startswith("times faster"))
    assert float(faster.rstrip("×")) == pytest.approx(dense["ms_median"] / ours["ms_median"], abs=0.051)
    macs = next(text for words, text in cards.items() if words.startswith("multiply-accumulates"))
    assert float(macs.rstrip(" M")) == pytest.approx(ours["macs"] / 1e6, abs=0.051)
    assert ours["macs"] == pytest.approx(told["totals"]["macs_mean"], abs=1)


def test_model_explorer_shows_its_files(browser, tmp_path):
    """The package's own server and page: the graph and every metric arrive."""
    pytest.importorskip("model_explorer")
    explored = deltafx.explore(in_parts(), tmp_path)
    program = shutil.which("model-explorer", path=str(Path(sys.executable).parent))
    words = [program, *shlex.split(explored.command)[1:], "--no_open_in_browser", "--port", str(free_port())]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            address = next(line.strip() for line in server.stdout if "/?data=" in line)
            page = browser.new_page()
            page.goto(address, wait_until="commit")
            for text in ("dense_to_delta", "pixels updated, %", "time, ms", "computed, million MACs", "state, KiB"):
                page.get_by_text(text).first.wait_for(state="attached")
            assert "eager_modules" in page.locator("body").inner_text()
            page.close()
        finally:
            server.terminate()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
