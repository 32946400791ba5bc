"""Chromium by its DevTools protocol, over a pipe: windows that a test fills in and reads.

The pipe tells when the browser is there and when something has happened, so nothing is polled.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import tempfile

FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --remote-debugging-pipe
""".split()


class Browser:
    """One browser; the protocol's messages are JSON, each with a zero byte behind it."""

    def __init__(self, commands, answers):
        self.commands, self.answers, self.ids = commands, answers, itertools.count(1)

    def call(self, method, session=None, **params):
        number = next(self.ids)
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def receive(self):
        message = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser ended"
            message += byte
        return json.loads(message)

    def window(self, url):
        """A window of its own that shows the page, once that is loaded."""
        target = self.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable", session)
        self.call("Page.navigate", session, url=url)
        while (message := self.receive()).get("method") != "Page.loadEventFired":
            assert "id" not in message, message
        return Window(self, target, session)


class Window:
    """One window of the browser."""

    def __init__(self, browser, target, session):
        self.browser, self.target, self.session = browser, target, session

    def run(self, script):
        """Runs a script in the page; gives its value, that of a promise when it is kept."""
        result = self.browser.call(
            "Runtime.evaluate", self.session,
            expression=script, awaitPromise=True, returnByValue=True, userGesture=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)


@contextlib.contextmanager
def browser():
    """A browser that ends with the test."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        commands_read, commands_write = os.pipe()
        answers_read, answers_write = os.pipe()
        # It reads commands from descriptor 3 and writes answers to 4.
        shell = f'exec chromium "$@" 3<&{commands_read} 4>&{answers_write}'
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *FLAGS, f"--user-data-dir={directory}/profile"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            pass_fds=(commands_read, answers_write),
        )
        os.close(commands_read)
        os.close(answers_write)
        try:
            with open(commands_write, "wb") as commands, open(answers_read, "rb") as answers:
                yield Browser(commands, answers)
        finally:
            # All of its processes: they are a group of their own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=60)
