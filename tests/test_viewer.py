"""`vaecodec view`: what its server gives and to whom, how it ends, and that the page shows pictures, and no damage."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import chromium
import pytest
from chromium import Chromium
from click.testing import CliRunner
from conftest import picture
from lossless_codec import vaec
from PIL import Image

from vaecodec.cli import main, viewer
from vaecodec.cli.viewer import ViewerServer

ROOT = Path(__file__).parents[1]
VIEWER = ROOT / "web" / "viewer"
HAS_DECODER = (ROOT / viewer.SCRIPT.replace("dist/", "web/dist/")).is_file()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, with a decoder of stripes in the place of the real one."""
    folder = tmp_path_factory.mktemp("web")
    shutil.copytree(VIEWER, folder / "viewer")
    (folder / "dist").mkdir()
    shutil.copy(Path(__file__).with_name("viewer_decoder.js"), folder / viewer.SCRIPT)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two .vaec files, one that is damaged, one that is cut off, an original of the first, and a page."""
    folder = tmp_path_factory.mktemp("files")
    data = vaec(picture(120, 200))
    (folder / "a.vaec").write_bytes(data[:-1] + b"\0")
    (folder / "b b.vaec").write_bytes(vaec(picture(600, 900)))
    (folder / "damaged.vaec").write_bytes(data[:-1] + b"\xff")
    (folder / "cut.vaec").write_bytes(data[:-9])
    (folder / "page.html").write_text("<script>document.title = 'run'</script>")
    (folder / "secret.vaec").write_bytes(data)
    Image.fromarray(picture(120, 200)).save(folder / "a.png")
    return [str(folder / name) for name in ("a.vaec", "b b.vaec", "damaged.vaec", "cut.vaec", "a.png", "page.html")]


@pytest.fixture(scope="module")
def server(web: Path, files: list[str]) -> Iterator[ViewerServer]:
    """One that runs."""
    with ViewerServer(files, web) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def ask(
    server: ViewerServer, path: str, method: str = "GET", *, hosts: tuple[str, ...] | None = None
) -> http.client.HTTPResponse:
    """The answer, its body read into `body`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for host in (f"127.0.0.1:{server.port}",) if hosts is None else hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    answer.body = answer.read()
    connection.close()
    return answer


def test_it_serves_the_page_and_the_files_named(server: ViewerServer, files: list[str]) -> None:
    """Byte for byte, damaged ones, too; and a list of names without folders, and which to open."""
    listed = json.loads(ask(server, f"{server.root}viewer/files.json").body)
    assert listed["files"] == [
        {"name": Path(path).name, "url": f"files/{number}", "vaec": path.endswith(".vaec")}
        for number, path in enumerate(files)
    ]
    for number, path in enumerate(files):
        answer = ask(server, f"{server.root}viewer/files/{number}")
        assert (answer.status, answer.body) == (200, Path(path).read_bytes())
        assert answer.headers["Content-Type"] == "application/octet-stream"  # of page.html, too: it is never run
    answer = ask(server, server.url.partition(str(server.port))[2])
    assert (answer.status, answer.body) == (200, (VIEWER / "index.html").read_bytes())
    head = ask(server, f"{server.root}viewer/files/0", "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(os.path.getsize(files[0])))


@pytest.mark.parametrize(
    "path",
    [
        "", "viewer", "viewer/", "dist/", "viewer/files", "viewer/files/", "viewer/files/6", "viewer/files/-1",
        "viewer/alive", "viewer/files/00", "viewer/files/secret.vaec", "viewer/../viewer/index.html", "viewer/%2e%2e/x",
        "../../../etc/passwd", "viewer/files/../../../../etc/passwd", "viewer/files/%2e%2e%2fsecret.vaec",
        "viewer//index.html", "viewer/files/0/", "viewer\\index.html", "viewer/files/0%00", "//etc/passwd",
        "viewer/index.html/..",
    ],
)  # fmt: skip
def test_nothing_else_is_there(server: ViewerServer, path: str) -> None:
    """No listing, no way out of the folder, no other name of what is there."""
    assert ask(server, f"{server.root}{path}").status == 404


def test_the_secret_is_needed(server: ViewerServer) -> None:
    """Without it, or with another, there is nothing; and it is long, and another one each time."""
    known = f"{server.root}viewer/index.html"
    for path in (
        "/",
        "/viewer/index.html",
        known.swapcase(),
        f"{known[:5]}{'y' if known[5] == 'x' else 'x'}{known[6:]}",
        known[1:],
        f"http://evil{known}",
    ):
        assert ask(server, path).status in (400, 404), path
    assert len(server.root) > 30
    with ViewerServer([], VIEWER.parent if HAS_DECODER else server_folder(server)) as other:
        assert other.root != server.root


def server_folder(server: ViewerServer) -> Path:
    """Where a server has its page from."""
    return server.parts[viewer.PAGE].parents[1]


@pytest.mark.parametrize(
    "hosts",
    [
        (), ("evil.example",), ("evil.example:{port}",), ("127.0.0.1",), ("localhost:1",), ("[::1]:{port}",),
        ("127.0.0.1:{port}.evil.example",), ("127.0.0.1:{port}", "evil.example"), ("user@127.0.0.1:{port}",),
    ],
)  # fmt: skip
def test_other_hosts_are_turned_away(server: ViewerServer, hosts: tuple[str, ...]) -> None:
    """A page whose name was made to resolve to this machine, although it knows the secret."""
    given = tuple(host.format(port=server.port) for host in hosts)
    for path in (f"{server.root}viewer/files/0", "/"):
        assert ask(server, path, hosts=given).status == 421
    assert ask(server, f"{server.root}viewer/files/0", hosts=(f"localhost:{server.port}",)).status == 200


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get", "X"]
)
def test_other_methods_are_refused(server: ViewerServer, method: str) -> None:
    """With what is allowed."""
    answer = ask(server, f"{server.root}viewer/files/0", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("path", "hosts"), [("viewer/index.html", None), ("viewer/files/0", None), ("no", None), ("no", ())]
)
def test_every_answer_is_guarded(server: ViewerServer, path: str, hosts: tuple[str, ...] | None) -> None:
    """The page may load nothing from elsewhere, others nothing from here; refusals say so, too."""
    headers = ask(server, f"{server.root}{path}", hosts=hosts).headers
    assert {name: headers[name] for name in viewer.HEADERS} == viewer.HEADERS
    for part in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "form-action 'none'"):
        assert part in headers["Content-Security-Policy"]
    assert "unsafe-inline" not in headers["Content-Security-Policy"] and "Access-Control-Allow-Origin" not in headers
    assert (headers["X-Content-Type-Options"], headers["Cross-Origin-Resource-Policy"]) == ("nosniff", "same-origin")


def test_the_page_has_the_same_policy_and_nothing_from_elsewhere() -> None:
    """On other servers the page guards itself; no address in it is another host's."""
    text = "".join((VIEWER / name).read_text() for name in ("index.html", "viewer.js", "viewer.css"))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy == viewer.POLICY
    assert not re.search(r"https?://|//cdn|@import|url\(|\son\w+=|style=|<script>|<style", text)


def test_it_listens_on_this_machine_only(server: ViewerServer) -> None:
    """On the loopback address."""
    assert server.socket.getsockname() == ("127.0.0.1", server.port)


def test_nonsense_ends_in_a_refusal(server: ViewerServer) -> None:
    """And the next one is served."""
    for nonsense in (b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"A" * 70000):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while data := connection.recv(4096):
                    answer += data
            except ConnectionResetError:
                pass
            assert b" 200 " not in answer
    assert ask(server, f"{server.root}viewer/files/0").status == 200


def test_files_that_go_or_change_are_not_there(web: Path, tmp_path: Path) -> None:
    """Gone, a folder, a pipe that nobody writes to: 404 at once, instead of waiting."""
    path = tmp_path / "a.vaec"
    with ViewerServer([str(path)], web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"{server.root}viewer/files/0"
        assert ask(server, address).status == 404
        path.write_bytes(b"new")
        assert ask(server, address).body == b"new"
        path.unlink()
        path.mkdir()
        assert ask(server, address).status == 404
        path.rmdir()
        if hasattr(os, "mkfifo"):
            os.mkfifo(path)
            assert ask(server, address).status == 404
        server.shutdown()


@contextmanager
def started(arguments: list[str], web: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`vaecodec view` in a process of its own, and the address that it prints."""
    code = (
        f"from vaecodec.cli import main, viewer; import pathlib; viewer.web_folder = lambda: pathlib.Path({str(web)!r})"
    )
    command = [sys.executable, "-c", f"{code}; main()", "view", "--no-browser", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def get(url: str) -> http.client.HTTPConnection:
    """A connection on which an address was asked for."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", f"/{path}")
    return connection


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read peaks of memory from")
def test_large_files_are_streamed(web: Path, tmp_path: Path) -> None:
    """Half a gigabyte passes through a process that needs a fraction of it; whoever stops reading does no harm."""
    size = 1 << 29
    with open(tmp_path / "large.vaec", "wb") as file:
        file.truncate(size)
    with started([str(tmp_path / "large.vaec")], web) as (process, url):
        address = url.replace("index.html?list=files.json", "files/0")
        with closing(get(address)) as connection, connection.getresponse() as answer:
            answer.read(1000)
        with closing(get(address)) as connection, connection.getresponse() as answer:
            count = 0
            while data := answer.read(1 << 20):
                count += len(data)
            assert count == size == int(answer.headers["Content-Length"])
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < size // 1024 // 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


@pytest.mark.slow
def test_it_ends_when_the_page_is_closed(web: Path, files: list[str]) -> None:
    """With --until-closed: not while a page is open, but a while after the last one has gone, with exit code 0."""
    with started(["--until-closed", files[0]], web) as (process, url):
        folder = url.rpartition("/")[0]
        with closing(get(f"{folder}/files.json")) as connection, connection.getresponse() as answer:
            assert json.loads(answer.read())["alive"] == "alive"
        with closing(get(f"{folder}/alive")) as connection, connection.getresponse() as answer:
            assert answer.status == 200 and answer.read(1) == b"."
            time.sleep(viewer.GRACE_S + 1)
            assert process.poll() is None
        assert process.wait(60) == 0


@pytest.mark.parametrize("asked", [[], ["--no-browser"]])
def test_the_browser_is_opened(asked: list[str], web: Path, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the address that is printed, unless it is not wanted."""
    opened: list[str] = []
    monkeypatch.setattr("click.launch", opened.append)
    monkeypatch.setattr(viewer, "web_folder", lambda: web)
    monkeypatch.setattr(ViewerServer, "serve_forever", lambda self: None)
    result = CliRunner().invoke(main, ["view", "--json", *asked, *files[:2]])
    told = json.loads(result.stdout)
    assert (result.exit_code, told["status"], told["files"]) == (0, "serving", 2)
    assert opened == ([] if asked else [told["url"]])


@pytest.mark.parametrize(
    ("name", "message", "code"),
    [("absent.vaec", "No such file", 3), (".", "is a folder", 3), ("pipe", "is not a file", 3)],
)
def test_what_cannot_be_read_is_told_at_once(name: str, message: str, code: int, tmp_path: Path) -> None:
    """Instead of by the page."""
    os.mkfifo(tmp_path / "pipe")
    result = CliRunner().invoke(main, ["view", "--no-browser", str(tmp_path / name)])
    assert result.exit_code == code and message in result.stderr and "[INPUT]" in result.stderr


def test_nothing_to_show_is_told(web: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of by an empty page; a .vaec file without the suffix is something."""
    monkeypatch.setattr(viewer, "web_folder", lambda: web)
    monkeypatch.setattr(ViewerServer, "serve_forever", lambda self: None)
    result = CliRunner().invoke(main, ["view", "--no-browser", files[4]])
    assert result.exit_code == 3 and "nothing to show" in result.stderr and "[INPUT]" in result.stderr
    shutil.copy(files[0], tmp_path / "no-suffix")
    assert CliRunner().invoke(main, ["view", "--no-browser", str(tmp_path / "no-suffix"), files[4]]).exit_code == 0


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["p/a/x.vaec", "p/a/x.png", "p/b/x.vaec", "p/b/x.png"], ["a/x.vaec", "a/x.png", "b/x.vaec", "b/x.png"]),
        (["a/x.vaec", "a/c/../y.vaec", "x.vaec"], ["a/x.vaec", "y.vaec", "x.vaec"]),
        (["a/x.vaec", "originals/x.png"], ["x.vaec", "x.png"]),
        (["a/x.vaec", "a/x.vaec"], ["x.vaec", "x.vaec"]),
    ],
)
def test_equal_names_are_told_apart(paths: list[str], names: list[str]) -> None:
    """By as much of the path as differs, where a name alone does not say which picture it is."""
    assert viewer.shown_names(paths) == names


def test_a_viewer_that_was_not_built_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[str]) -> None:
    """With what to run."""
    monkeypatch.setattr(viewer, "__file__", str(tmp_path / "vaecodec" / "cli" / "viewer.py"))
    result = CliRunner().invoke(main, ["view", "--no-browser", files[0]])
    assert result.exit_code == 1 and "make web" in result.stderr and "[VIEWER_MISSING]" in result.stderr


# --- the page ---


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium."""
    if chromium.PROGRAM is None:
        pytest.skip("no Chromium is installed")
    with Chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


TEXT = "document.querySelector('{}').textContent"
SHOWS = "!document.querySelector('#picture').hidden && /whole/.test(document.querySelector('#facts').textContent)"


def zoom(browser: Chromium) -> float:
    """CSS pixels a picture's pixel."""
    return browser.run(
        "document.querySelector('#picture').getBoundingClientRect().width / document.querySelector('#canvas').width"
    )


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_shows_pictures(browser: Chromium, server: ViewerServer, files: list[str], width: int) -> None:
    """The first of the list with its facts, beside its original; keys zoom, flip and go on; no window is too narrow."""
    browser.look(width, 800)
    browser.messages.clear(), browser.requests.clear()
    browser.open(server.url)
    browser.until(f"{SHOWS} && !document.querySelector('#compare').hidden")
    size = os.path.getsize(files[0])
    facts = browser.run(TEXT.format("#facts"))
    assert re.fullmatch(
        rf"200 \S 120 · quality \d+ · {size:,} bytes · {8 * size / 24000:.3f} bpp · preview \d+ ms · whole \d+ ms",
        facts,
    )
    assert browser.run(TEXT.format("#note")) == f"original: {os.path.getsize(files[4]):,} bytes"
    assert zoom(browser) == 1
    shares = []
    for key in "occ":
        browser.press(key)
        shares.append(browser.run("getComputedStyle(document.querySelector('#picture')).getPropertyValue('--at')"))
    assert shares == ["0%", "50%", "50%"]
    for key, expected in (("2", 2), ("+", 3), ("-", 2), ("1", 1), ("f", 1)):
        browser.press(key)
        assert zoom(browser) == pytest.approx(expected)
    browser.press("n")
    browser.until(f"{SHOWS} && document.title.startsWith('b b.vaec')")
    assert zoom(browser) == pytest.approx(min(1, width / 900), abs=0.01)
    assert browser.run("document.querySelector('#compare').hidden")
    browser.press("?")
    assert browser.run("document.querySelector('#keys').open")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.messages == []
    assert all(address.startswith((server.url.partition("viewer/")[0], "blob:")) for address in browser.requests)


def test_the_page_shows_no_damage(browser: Chromium, server: ViewerServer) -> None:
    """An error with its code takes the place of the picture; also where a preview has been shown before."""
    browser.open(server.url)
    browser.until(SHOWS)
    for number, code in ((2, "TILE_CRC"), (3, "SHORT_FILE")):
        browser.run(f"""{{
            const names = document.querySelector('#names');
            names.value = {number};
            names.dispatchEvent(new Event('change'));
        }}""")
        browser.until(f"document.querySelector('#error code')?.textContent === '{code}'")
        assert browser.run("document.querySelector('#picture').hidden && !document.querySelector('#error').hidden")
        assert browser.run("document.querySelector('#canvas').width") == 0
        assert browser.run(TEXT.format("#facts")) == ""
    browser.press("p")
    browser.press("p")
    browser.until(f"{SHOWS} && document.querySelector('#error').hidden")


def test_dropped_files_are_shown(browser: Chromium, server: ViewerServer, files: list[str]) -> None:
    """A .vaec file is opened, a picture compared with it, and one that no browser can read is told."""
    browser.open(server.url.partition("?")[0])
    assert browser.run("!document.querySelector('#empty').hidden")

    def drop(index: int, name: str) -> None:
        content = list(Path(files[index]).read_bytes())
        browser.run(f"""{{
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array({content})], "{name}"));
            dispatchEvent(new DragEvent("drop", {{dataTransfer: data}}));
        }}""")

    drop(4, "lonely.png")
    browser.until("/Open a .vaec file first/.test(document.querySelector('#note').textContent)")
    drop(0, "x.vaec")
    browser.until(SHOWS)
    drop(4, "other.png")
    browser.until(
        "!document.querySelector('#compare').hidden && document.querySelector('#original').naturalWidth === 200"
    )
    drop(5, "page.html")
    browser.until("/cannot read the original/.test(document.querySelector('#note').textContent)")


def test_originals_belong_to_their_folder(browser: Chromium, web: Path, tmp_path: Path) -> None:
    """Pictures of the same name in different folders are compared each with its own; and the list tells them apart."""
    paths = []
    for folder, width in (("a", 100), ("b", 200)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.vaec").write_bytes(vaec(picture(120, width)))
        Image.fromarray(picture(120, width)).save(tmp_path / folder / "x.png")
        paths += [str(tmp_path / folder / name) for name in ("x.vaec", "x.png")]
    with ViewerServer(paths, web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(server.url)
        for width in (100, 200):
            browser.until(
                f"{SHOWS} && !document.querySelector('#compare').hidden"
                f" && document.querySelector('#original').naturalWidth === {width}"
            )
            browser.press("n")
        names = browser.run("[...document.querySelector('#names').options].map(each => each.text)")
        assert names == ["a/x.vaec", "b/x.vaec"]
        server.shutdown()


def test_everything_has_a_name(browser: Chromium, server: ViewerServer) -> None:
    """For those who do not see it: what can be used, and the picture."""
    browser.open(server.url)
    browser.until(f"{SHOWS} && !document.querySelector('#compare').hidden")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    found = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]}
    used = {
        (role, name)
        for role, name in found
        if role in ("button", "combobox", "slider", "image", "img", "region", "MenuListPopup")
    }
    assert {role for role, _ in used} >= {"button", "combobox", "slider", "region"}
    assert [each for each in used if not each[1] and each[0] != "MenuListPopup"] == []
    assert {"a.vaec", "original of a.vaec"} <= {name for role, name in used if role in ("image", "img")}


@pytest.mark.slow
def test_the_page_keeps_its_server_alive(browser: Chromium, web: Path, files: list[str]) -> None:
    """As long as it is open, loaded again or not; then the server ends by itself."""
    with ViewerServer(files, web, ends_with_page=True) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        for _ in range(2):
            browser.open(server.url)
            browser.until(SHOWS)
        time.sleep(viewer.GRACE_S + 1)
        assert serving.is_alive()
        browser.open("about:blank")
        serving.join(30)
        assert not serving.is_alive()


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read(browser: Chromium, server: ViewerServer, dark: bool) -> None:
    """Text and its ground differ by 4.5 at least, as WCAG asks, in either scheme."""
    browser.look(1280, 800, dark=dark)
    browser.open(server.url)
    browser.until(SHOWS)
    ratios = browser.run("""(() => {
        const light = text => {
            const [r, g, b] = text.match(/[\\d.]+/g).map(value => value / 255)
                .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = node => {
            const own = getComputedStyle(node).backgroundColor;
            return own === "rgba(0, 0, 0, 0)" ? ground(node.parentElement) : own;
        };
        return ["#facts", "#note", "#choose", "#zoom", "#empty", "#error", "#names", "#keys"].map(name => {
            const node = document.querySelector(name);
            const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
            return [name, (a + 0.05) / (b + 0.05)];
        });
    })()""")
    assert [name for name, ratio in ratios if ratio < 4.5] == []
    is_dark = browser.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert is_dark == dark


@pytest.mark.skipif(not HAS_DECODER, reason="web/dist is not built: make web")
def test_the_real_decoder_draws(browser: Chromium, tmp_path: Path) -> None:
    """Every sample of a picture without loss is on the canvas; a flipped bit is an error."""
    samples = picture(120, 200)
    data = vaec(samples)
    (tmp_path / "a.vaec").write_bytes(data)
    (tmp_path / "b.vaec").write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with ViewerServer([str(tmp_path / "a.vaec"), str(tmp_path / "b.vaec")], viewer.web_folder()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(server.url)
        browser.until(SHOWS)
        found = browser.run("""(() => {
            const canvas = document.querySelector('#canvas');
            return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
        })()""")
        assert [value for index, value in enumerate(found) if index % 4 < 3] == samples.ravel().tolist()
        browser.press("n")
        browser.until("document.querySelector('#error code')?.textContent === 'TILE_CRC'")
        server.shutdown()
