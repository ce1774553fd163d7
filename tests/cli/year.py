#!/usr/bin/env python3
"""A keyholder's whole year, acted out with the real program in a real terminal.

    year.py KEYMOOT PAGES [--show]

KEYMOOT is the binary; PAGES is `docs/ceremonies`, whose screens must be what the people here have seen; --show prints
every screen. Three holders, an operator, two nodes. Only Python's standard library, and `faketime` for a clock that
runs ahead.
"""

import base64
import glob
import os
import re
import shutil
import stat
import sys
import tempfile

from nodes import KEY, OPERATOR, SERVICE, Node, users_database, users_values
from pages import check_pages
from terminal import Person, Unexpected

# More than a year, and then more than a part lives.
A_YEAR_LATER, ELEVEN_MINUTES_LATER = "+34560000", "+34560660"


class Year:
    """The people, the nodes, and what happens to them."""

    def __init__(self, keymoot, folder):
        self.folder, self.screens, self.people = folder, [], {}
        self.db1, self.db2 = (Node(name, keymoot, folder) for name in ("db1", "db2"))
        # What people type is `keymoot`, wherever it was built.
        os.makedirs(f"{folder}/bin")
        os.symlink(keymoot, f"{folder}/bin/keymoot")
        for name in ("ops", "web", "ann", "bob", "eve"):
            setattr(self, name, self.person(name, name))

    def person(self, name, home):
        """Somebody at a machine of theirs."""
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return Person(name, f"{self.folder}/homes/{home}", path, self.screens)

    def profile(self, person, nodes):
        """What an operator sends to everybody: where the nodes are, and which certificates to trust."""
        person.write("ca.pem", "".join(node.certificate() for node in (self.db1, self.db2)))
        controls = ", ".join(f'"{node.control}"' for node in nodes)
        profile = f'ca = "{person.path("ca.pem")}"\naddr = "{self.db1.data}"\nnodes = [{controls}]\n'
        for name, token in (("ops", OPERATOR), ("web", SERVICE)):
            if person.name == name:
                person.write("token", token)
                profile += f'token_file = "{person.path("token")}"\n'
        person.write(".config/keymoot/profile.toml", profile)

    def profiles(self, *nodes):
        for person in (self.ops, self.web, self.ann, self.bob, self.eve):
            self.profile(person, nodes)

    def mail(self, sender, file, receiver, name):
        shutil.copy(sender.path(file), receiver.path(name))

    # --- January: a keyring is made ------------------------------------------------------------------------------

    def everybody_makes_an_identity(self):
        line = "keymoot holder keygen"
        self.ann.types(
            line, ("Passphrase: ", "correct horse"), ("Again: ", "correct hrose"), ends=1,
            sees=["the two passphrases differ"],
        )
        if os.path.exists(self.ann.path("keymoot-identity.age")):
            raise Unexpected("an identity under a passphrase that nobody knows")
        return {person.name: self.keygen(person) for person in (self.ann, self.bob, self.eve)}

    def keygen(self, person):
        screen = person.types(
            "keymoot holder keygen", ("Passphrase: ", "correct horse"), ("Again: ", "correct horse"),
            sees=["send the operator the line above"],
        )
        if stat.S_IMODE(os.stat(person.path("keymoot-identity.age")).st_mode) != 0o600:
            raise Unexpected("others can read an identity")
        return re.search(r"^age1[0-9a-z]{58}$", screen, re.MULTILINE).group()

    def the_operator_makes_the_keyring(self, recipients):
        self.ops.types("keymoot status", sees=["there is no keyring yet"])
        holders = [f"--holder {name}={recipient}" for name, recipient in recipients.items()]
        init = "keymoot init --threshold 2 --first-version 9"
        self.ops.types(f"{init} {' '.join(holders[:2])}", sees=["packages/ann.age"])
        # Eve was forgotten. Until the first unlock it may be made anew, and what was made before is worth nothing.
        self.mail(self.ops, "packages/ann.age", self.ann, "first.age")
        self.ops.types(f"{init} {' '.join(holders)}", ends=1, sees=["exists already", "choose another --out"])
        self.ops.types(f"{init} {' '.join(holders)} --out packages-v9", sees=["is made, at v9, and sealed"])

    def everybody_opens_their_package(self):
        for person in (self.ann, self.bob, self.eve):
            self.mail(self.ops, f"packages-v9/{person.name}.age", person, f"{person.name}-v9.age")
        line = "keymoot holder open ann-v9.age"
        self.ann.types(line, ("Passphrase: ", "correct hrose"), ends=1, sees=["a wrong passphrase"])
        for person in (self.ann, self.bob, self.eve):
            self.open(person, "v9")
        self.ann.types("keymoot holder open first.age", ("Passphrase: ", "correct horse"))
        self.mail(self.ops, "packages-v9/bob.age", self.ann, "bob-v9.age")
        self.ann.types(
            "keymoot holder open bob-v9.age", ("Passphrase: ", "correct horse"), ends=1,
            sees=["made for another recipient"],
        )

    def open(self, person, version):
        name = f"{person.name}-{version}"
        person.types(f"keymoot holder open {name}.age", ("Passphrase: ", "correct horse"), sees=["checksum right"])
        if stat.S_IMODE(os.stat(person.path(f"{name}.parts")).st_mode) != 0o600:
            raise Unexpected("others can read a share")
        if "kmshare1" not in person.read(f"{name}.parts"):
            raise Unexpected("no share in the parts file")

    # --- February: the first unlock, and all that goes wrong at it -----------------------------------------------

    def the_first_unlock(self):
        ann, bob = self.ann, self.bob
        ann.types("keymoot unlock ann-v9.age", ends=2)
        ann.types("keymoot unlock first.parts", ends=1, sees=["wrong_keyring"])
        bob.write("typo.parts", typing_error(bob.read("bob-v9.parts")))
        bob.types("keymoot unlock typo.parts", ends=1, sees=["prod-keyPart-v9", "checksum_failed"])

        # Bob is not there today: the operator sends Ann home.
        ann.types("keymoot unlock ann-v9.parts", ends=3, sees=["1 of 2"])
        self.ops.types("keymoot unlock --reset")
        self.ops.types("keymoot status", sees=["0 of 2"])

        self.db2.stop()
        ann.types("keymoot unlock ann-v9.parts", ends=3, sees=[self.db2.control])
        bob.types("keymoot unlock bob-v9.parts", ends=3, sees=["unlocked", self.db2.control])
        self.db2.start()
        self.db2_takes_the_manifest()
        ann.types("keymoot unlock ann-v9.parts", ends=3, sees=["already_loaded"])
        bob.types("keymoot unlock bob-v9.parts", sees=["already_loaded"])
        # A stand-by has done its part; from here on there is one node.
        self.db2.stop()
        self.profiles(self.db1)

    def db2_takes_the_manifest(self):
        """A node that joins has no manifest of its own: an operator names the one that it may believe."""
        self.profile(self.ops, [self.db2])
        screen = self.ops.types("keymoot status", sees=["this node has no manifest of its own"])
        digest = re.search(r"digest ([0-9a-f]{64})", screen).group(1)
        self.ops.types(f"curl -s --cacert ca.pem -H \"Authorization: Bearer $(cat token)\" -X POST {self.db2.control}/v1/manifest/confirm -d '{{\"revision\":1,\"digest\":\"{digest}\"}}'")
        self.profile(self.ops, [self.db1, self.db2])

    def everybody_has_proved(self):
        self.eve.types("keymoot holder prove eve-v9.parts", sees=["v9: eve has proved possession"])
        self.ops.types("keymoot status", sees=["db1 is unlocked", "needs nobody"])

    def a_service_writes(self):
        """Values, as the users' services have them: three in the database, and one at home."""
        values = []
        for card in ("4111", "4222", "4333"):
            self.web.types(f"printf {card} | keymoot encrypt {KEY} > value")
            values.append(self.web.read("value").strip())
        users_database(self.folder, values)

    # --- June: the key is rotated --------------------------------------------------------------------------------

    def the_holders_consent(self):
        screen = self.ops.types("keymoot rotate stage", sees=["0 of 2 consents", "keymoot holder consent"])
        request = re.search(r"request ([0-9a-f-]{36})", screen).group(1)
        consent = f"keymoot holder consent {request}"
        self.ann.types(
            f"{consent} ann-v9.parts", ("[y/N]", "n"), ends=1,
            sees=["operation stage", "threshold 2", "eve", "age1", "not consented"],
        )
        self.ann.types(f"{consent} ann-v9.parts", ("[y/N]", "y"), sees=["1 of 2 consents"])
        self.ann.types(f"{consent} ann-v9.parts", ("[y/N]", "y"), sees=["duplicate_share", "1 of 2 consents"])
        self.bob.types(f"{consent} bob-v9.parts", ("[y/N]", "y"), sees=["v10 is staged"])

    def everybody_proves_v10(self):
        self.ops.types("keymoot rotate packages v10 --out packages-v10", sees=["packages-v10/eve.age"])
        for person in (self.ann, self.bob, self.eve):
            self.mail(self.ops, f"packages-v10/{person.name}.age", person, f"{person.name}-v10.age")
            self.open(person, "v10")
        self.ann.types("keymoot holder prove ann-v10.parts", sees=["v10: ann has proved possession"])
        self.ops.types(
            "keymoot rotate activate v10", ends=4, sees=["not_loaded", "not_proved bob", "not_proved eve"],
        )
        for person in (self.bob, self.eve):
            name = person.name
            person.types(f"keymoot holder prove {name}-v10.parts", sees=[f"v10: {name} has proved possession"])
        self.ops.types("keymoot status", sees=["v10 is staged and proved"])

    def v10_is_loaded_and_activated(self):
        self.ann.types("keymoot unlock ann-v10.parts", ends=3, sees=["1 of 2"])
        self.bob.types("keymoot unlock bob-v10.parts", sees=["2 of 2"])
        self.ops.types("keymoot rotate activate v10 --dry-run", sees=["new values would be encrypted with v10"])
        self.ops.types("keymoot rotate activate v10", sees=["it is primary, and v10 encrypts"])
        self.ops.types("keymoot status", sees=["`keymoot rotate rollback v9` makes v9 primary again"])

    def a_restart_without_v10(self):
        """Both of those who could come have lost their share of v10; v9 alone brings the node up."""
        self.db1.stop()
        self.db1.start()
        self.ann.types("keymoot unlock ann-v9.parts", ends=3, sees=["v10"])
        self.bob.types("keymoot unlock bob-v9.parts", ends=3, sees=["v10"])
        self.ops.types("keymoot unlock --degraded v10", sees=["degraded"])
        self.ops.types("keymoot status", sees=["without v10"])
        self.web.types("keymoot decrypt auth-token < value", sees=["4333"])
        self.web.types("printf 4444 | keymoot encrypt auth-token", ends=3, sees=["key_version_unavailable"])
        # Ann finds hers after all: nothing was decided yet that could not be undone.
        self.ann.types("keymoot unlock ann-v10.parts", ends=3)
        self.eve.types("keymoot unlock eve-v10.parts")
        self.ops.types("keymoot status", sees=["db1 is unlocked"], sees_not=["without v10"])

    def v9_goes(self):
        self.ops.types("keymoot rekey start --watch", sees=["3 of 3 (100 %)"])
        self.ops.types("keymoot retire v9", ends=4, sees=["census_stale"])
        self.ops.types("keymoot retire v9 --wait", sees=["v9 is retired"])
        self.ann.types("keymoot unlock ann-v9.parts", ends=1, sees=["version_retired"])
        self.ops.types("keymoot versions", sees=["retired"])

    # --- January again ---------------------------------------------------------------------------------------------

    def an_unlock_that_takes_too_long(self):
        """The machine was moved. Ann gives, and Bob comes eleven minutes later."""
        self.db1.stop()
        self.db1.clock(A_YEAR_LATER)
        self.db1.start()
        self.ann.types("keymoot unlock ann-v10.parts", ends=3, sees=["1 of 2"])
        self.db1.clock(ELEVEN_MINUTES_LATER)
        self.bob.types("keymoot unlock bob-v10.parts", ends=3, sees=["1 of 2"])
        self.ann.types("keymoot unlock ann-v10.parts", sees=["2 of 2"])

    def the_yearly_drill(self):
        self.ops.types("keymoot status")
        for person in (self.ann, self.bob, self.eve):
            name = person.name
            person.types(f"keymoot holder prove {name}-v10.parts", sees=[f"v10: {name} has proved possession"])
        self.ops.types("keymoot status", sees=["needs nobody"])

    def recovered_without_a_daemon(self):
        self.db1.stop()
        self.ann.write("values.txt", f"{users_values(self.folder)[0]}\n")
        self.mail(self.eve, "eve-v10.parts", self.ann, "eve-v10.parts")
        recover = f"keymoot recover --parts ann-v10.parts eve-v10.parts --witness values.txt --key {KEY}"
        self.ann.types(f"{recover} --values values.txt", sees=[base64.b64encode(b"4111").decode()])


def typing_error(parts):
    """The same with one character of the share changed."""
    at = parts.index("kmshare1") + 40
    return parts[:at] + ("q" if parts[at] != "q" else "p") + parts[at + 1 :]


def act(year):
    """The year, month by month."""
    year.db1.start()
    year.db2.start()
    year.profiles(year.db1, year.db2)
    recipients = year.everybody_makes_an_identity()
    year.the_operator_makes_the_keyring(recipients)
    year.everybody_opens_their_package()
    year.the_first_unlock()
    year.everybody_has_proved()
    year.a_service_writes()
    year.the_holders_consent()
    year.everybody_proves_v10()
    year.v10_is_loaded_and_activated()
    year.a_restart_without_v10()
    year.v9_goes()
    year.an_unlock_that_takes_too_long()
    year.the_yearly_drill()
    year.recovered_without_a_daemon()


def main(keymoot, pages, *options):
    with tempfile.TemporaryDirectory() as folder:
        year = Year(os.path.realpath(keymoot), folder)
        try:
            act(year)
            check_pages(glob.glob(f"{pages}/*.md"), year.screens)
        finally:
            for node in (year.db1, year.db2):
                node.kill()
            if "--show" in options:
                for line, screen, code in year.screens:
                    print(f"{line}\n{screen}(exit code {code})\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Unexpected as unexpected:
        sys.exit(str(unexpected))
