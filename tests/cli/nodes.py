"""Daemons that can be stopped, started again at the same address, and told another time."""

import hashlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import threading

from terminal import PATIENCE, Unexpected

KEY = "auth-token"
OPERATOR = "km_" + "o" * 43
SERVICE = "km_" + "s" * 43
FAKETIME = f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketimeMT.so.1"

CONFIG = """keyring = "prod"
data_dir = "{data_dir}"
[listen]
data = "{data}"
control = "{control}"
[metadata]
url = "sqlite://{folder}/meta.db"
[cluster]
node = "{name}"
members = ["{name}"]
[retire]
quiet = "1s"
max_write_delay = "1s"
hold = "1h"
[[token]]
name = "ops"
role = "operator"
sha256 = "{operator}"
[[token]]
name = "web"
role = "service"
sha256 = "{service}"
keys = ["{key}"]
operations = ["encrypt", "decrypt"]
[[key]]
name = "{key}"
only_in_sources = true
[[source]]
name = "tokens.token"
url = "sqlite://{folder}/app.db"
table = "tokens"
id = "id"
column = "token"
key = "{key}"
"""


def free_port():
    """One below those that the kernel gives out: a node that was stopped finds it free when it is started again."""
    while True:
        port = random.randrange(15000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return f"127.0.0.1:{port}"


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


class Node:
    """One daemon. Those of one folder share the metadata store, as the members of a cluster do."""

    def __init__(self, name, keymoot, folder):
        self.name, self.keymoot, self.folder, self.process = name, keymoot, folder, None
        self.data_dir, self.log = f"{folder}/{name}", f"{folder}/{name}.log"
        control, data = free_port(), free_port()
        self.control, self.data = f"https://{control}", f"https://{data}"
        self.config, self.clock_file = f"{folder}/{name}.toml", f"{folder}/{name}.clock"
        settings = {
            "name": name, "folder": folder, "data_dir": self.data_dir, "data": data, "control": control, "key": KEY,
            "operator": digest(OPERATOR), "service": digest(SERVICE),
        }
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(**settings))
        os.chmod(self.config, 0o600)
        self.clock("+0")

    def clock(self, offset):
        """How far ahead its clocks are, the monotonic one too."""
        with open(f"{self.clock_file}.new", "w", encoding="utf-8") as file:
            file.write(offset)
        os.replace(f"{self.clock_file}.new", self.clock_file)

    def certificate(self):
        with open(f"{self.data_dir}/tls-cert.pem", encoding="utf-8") as file:
            return file.read()

    def start(self):
        """Starts it and waits until it listens."""
        if not os.path.exists(FAKETIME):
            raise Unexpected(f"there is no {FAKETIME}: install the package faketime")
        environment = {
            "PATH": os.environ["PATH"], "KEYMOOT_LOG": "info", "LD_PRELOAD": FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": self.clock_file, "FAKETIME_NO_CACHE": "1",
        }
        self.process = subprocess.Popen(
            [self.keymoot, "server", "--config", self.config], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        listening = threading.Event()

        def keep_log(lines):
            with open(self.log, "ab") as log:
                for line in lines:
                    log.write(line)
                    log.flush()
                    if b'"listening"' in line:
                        listening.set()

        threading.Thread(target=keep_log, args=(self.process.stderr,), daemon=True).start()
        if not listening.wait(PATIENCE):
            raise Unexpected(f"{self.name} did not start")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(PATIENCE) != 0:
            raise Unexpected(f"{self.name} ended with {self.process.returncode}")
        self.process = None

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def users_database(folder, values):
    """Makes the users' own database, with these values."""
    database = sqlite3.connect(f"{folder}/app.db")
    database.execute("CREATE TABLE tokens (id INTEGER PRIMARY KEY, token TEXT)")
    database.executemany("INSERT INTO tokens (token) VALUES (?)", [(value,) for value in values])
    database.commit()
    database.close()


def users_values(folder):
    """What stands in it."""
    database = sqlite3.connect(f"{folder}/app.db")
    rows = database.execute("SELECT token FROM tokens ORDER BY id").fetchall()
    database.close()
    return [value for (value,) in rows]
