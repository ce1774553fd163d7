"""People at a terminal: what they type into a real pseudo-terminal, and what they see of it.

Only Python's standard library.
"""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time

# Longer than anything here takes; only a hang gets near it.
PATIENCE = 60
LINES, COLUMNS = 40, 110
ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()].)")
# What is typed at these prompts must not show.
HIDDEN = ("Passphrase: ", "Again: ")
TABLE = re.compile("[│┆]")
# A share, an identity or a token, at any length that tells something.
SECRETS = re.compile(r"kmshare1[0-9a-z]{6}|AGE-SECRET-KEY-1|km_[A-Za-z0-9]{6}", re.IGNORECASE)


class Unexpected(Exception):
    """A person saw something else than they should."""


class Session:
    """One command in a terminal of its own."""

    def __init__(self, line, directory, environment):
        self.seen = b""
        self.read_up_to = 0
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.execve("/bin/sh", ["sh", "-c", line], environment)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.deadline = time.monotonic() + PATIENCE

    def more(self):
        """Reads what is there; False at the end."""
        left = self.deadline - time.monotonic()
        ready, _, _ = select.select([self.terminal], [], [], max(left, 0))
        if not ready:
            raise Unexpected(f"nothing more came:\n{self.screen()}")
        try:
            chunk = os.read(self.terminal, 65536)
        except OSError:  # EIO: the last one who had it open has gone.
            chunk = b""
        self.seen += chunk
        return bool(chunk)

    def wait_for(self, prompt):
        """Reads until the prompt is there, after whatever was waited for before."""
        wanted = prompt.encode()
        while wanted not in self.seen[self.read_up_to :]:
            if not self.more():
                raise Unexpected(f"no {prompt!r} in:\n{self.screen()}")
        self.read_up_to = self.seen.index(wanted, self.read_up_to) + len(wanted)

    def type(self, line, hidden):
        """Types a line; a passphrase only once the terminal hides it, a moment after its prompt."""
        while hidden and termios.tcgetattr(self.terminal)[3] & termios.ECHO:
            if time.monotonic() > self.deadline:
                raise Unexpected(f"the terminal shows what is typed:\n{self.screen()}")
            time.sleep(0.001)
        os.write(self.terminal, line.encode() + b"\n")

    def end(self):
        """Reads to the end; the exit code."""
        while self.more():
            pass
        os.close(self.terminal)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def screen(self):
        """What a person has seen, without colours."""
        return ESCAPES.sub("", self.seen.decode()).replace("\r\n", "\n")


class Person:
    """Somebody with a home directory of their own."""

    def __init__(self, name, home, path, screens):
        self.name, self.home, self.screens = name, home, screens
        os.makedirs(home, mode=0o700)
        self.environment = {"HOME": home, "PATH": path, "TERM": "xterm-256color", "LANG": "C.UTF-8"}

    def path(self, name):
        return os.path.join(self.home, name)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def write(self, name, content):
        os.makedirs(os.path.dirname(self.path(name)), mode=0o700, exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(self.path(name), 0o600)

    def types(self, line, *answers, ends=0, sees=(), sees_not=()):
        """Types a line and answers what is asked, as (prompt, answer); `ends` is the exit code. The screen at the end.

        No secret may show: no share, no token, no passphrase that was typed.
        """
        session = Session(line, self.home, self.environment)
        for prompt, answer in answers:
            session.wait_for(prompt)
            session.type(answer, hidden=prompt in HIDDEN)
        code, screen = session.end(), session.screen()
        self.screens.append((f"{self.name}$ {line}", screen, code))
        flowing = " ".join(TABLE.sub(" ", screen).split())
        hidden = [answer for prompt, answer in answers if prompt in HIDDEN]
        wrong = [f"it does not say {text!r}" for text in sees if text not in flowing]
        wrong += [f"it says {text!r}" for text in sees_not if text in flowing]
        wrong += ["it shows a passphrase" for text in hidden if text in screen]
        wrong += [f"it shows a secret, {found[:10]}…" for found in SECRETS.findall(screen)]
        wrong += [f"it ends with {code} and not with {ends}"] if code != ends else []
        if wrong:
            raise Unexpected(f"{self.name}$ {line}\n{screen}\n{'; '.join(wrong)}")
        return screen
