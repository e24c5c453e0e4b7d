"""A headless Chromium, driven through its debugging pipe: null-terminated JSON on file descriptors 3 and 4."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT_S = 60


class Chromium:
    """One browser with one page.

    Attributes:
        messages: what the page's console said, and every request that failed or was refused, as text.
        requests: every address that was asked for.
    """

    def __init__(self, profile: Path) -> None:
        (their_in, self._out), (self._in, their_out) = os.pipe(), os.pipe()
        switches = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        # The child must find its ends under 3 and 4, whatever numbers they have here.
        shell = (
            f"exec {PROGRAM} {' '.join(switches)} --user-data-dir='{profile}' about:blank 3<&{their_in} 4>&{their_out}"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", shell], pass_fds=(their_in, their_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(their_in), os.close(their_out)
        self._number, self._rest, self._session = 0, b"", None
        self.messages: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        try:
            self.send("Browser.close")
            self._process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._in), os.close(self._out)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the DevTools protocol, and returns its result."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        call = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._out, json.dumps(call).encode() + b"\0")
        while (message := self._next()).get("id") != self._number:
            self._hear(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Waits until an expression is true in the page."""
        milliseconds = 1000 * TIMEOUT_S
        done = self.run(f"""(async () => {{
            for (const end = performance.now() + {milliseconds}; performance.now() < end;) {{
                if ({condition}) return true;
                await new Promise(resolve => setTimeout(resolve, 20));
            }}
            return false;
        }})()""")
        if not done:
            raise TimeoutError(
                f"{condition}: not within {TIMEOUT_S} s; {self.run('document.body.innerText')!r} {self.messages}"
            )

    def open(self, url: str) -> None:
        """Goes to an address, and waits until its scripts have run."""
        self.send("Page.navigate", url=url)
        self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def press(self, key: str) -> None:
        """Presses and releases a key that writes a character, or a named one."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, **(text if kind == "keyDown" else {}))

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Sets the size of the window in pixels, and the scheme of colours."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Saves the window as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._in, 1 << 16)
            if not data:
                raise OSError("Chromium has ended")
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def _hear(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(told["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.messages.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(each.get("value")) for each in told["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
