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

TEST = "a_keyholders_whole_year_goes_as_the_pages_say"
# At the end of the question, so that the answer stands below it.
YES, NO = ("[y/N]\r\n", "y"), ("[y/N]\r\n", "n")
# More than a year, and then more than a part lives.
A_YEAR_LATER, ELEVEN_MINUTES_LATER = "+34560000", "+34560660"


class Year:
    """The people, the nodes, and what happens to them."""

    def __init__(self, keymoot, folder):
        self.folder, self.screens = folder, []
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
        # The second node is given the manifest that it may believe.
        self.db2.stop()
        shutil.copy(f"{self.db1.data_dir}/manifest.json", self.db2.data_dir)
        self.db2.start()

    def everybody_opens_their_package(self):
        for person in (self.ann, self.bob, self.eve):
            self.mail(self.ops, f"packages-v9/{person.name}.age", person, f"{person.name}-v9.age")
        line = "keymoot holder open ann-v9.age"
        self.ann.types(line, ("Passphrase: ", "correct hrose"), ends=1, sees=["a wrong passphrase"])
        for person in (self.ann, self.bob, self.eve):
            self.open(person, "v9", "were NOT checked")
        self.ann.types(
            "keymoot holder open first.age", ("Passphrase: ", "correct horse"), ends=1,
            sees=["wrong_keyring", "NOT all is well"],
        )
        self.mail(self.ops, "packages-v9/bob.age", self.ann, "bob-v9.age")
        self.ann.types(
            "keymoot holder open bob-v9.age", ("Passphrase: ", "correct horse"), ends=1,
            sees=["made for another recipient"],
        )

    def open(self, person, version, says="all is well: checksum, keyring and digest are right"):
        name = f"{person.name}-{version}"
        person.types(f"keymoot holder open {name}.age", ("Passphrase: ", "correct horse"), sees=[says])
        if stat.S_IMODE(os.stat(person.path(f"{name}.parts")).st_mode) != 0o600:
            raise Unexpected("others can read a share")
        if "kmshare1" not in person.read(f"{name}.parts"):
            raise Unexpected("no share in the parts file")

    # --- February: the first unlock, and all that goes wrong at it -----------------------------------------------

    def the_first_unlock(self):
        ann, bob = self.ann, self.bob
        ann.types("keymoot unlock ann-v9.age", ends=2, sees=["a package, still closed", "keymoot holder open"])
        ann.types("keymoot unlock first.parts", ends=1, sees=["wrong_keyring", "it was not sent"])
        bob.write("typo.parts", typing_error(bob.read("bob-v9.parts")))
        bob.types("keymoot unlock typo.parts", ends=1, sees=["prod-keyPart-v9", "checksum_failed"])

        # Bob can't come today: the operator sends Ann home.
        ann.types("keymoot unlock ann-v9.parts", ends=3, sees=["db1 is unlocking; v9 needs 1 more"])
        self.ops.types("keymoot unlock --reset")
        self.ops.types("keymoot status", sees=["db1 sealed", "0 of 2"])

        ann.types("keymoot unlock ann-v9.parts", ends=3, sees=["db1 is unlocking; v9 needs 1 more"])
        bob.types("keymoot unlock bob-v9.parts", sees=["db1 is unlocked", "db2 is unlocked"])

    def a_node_that_is_away(self):
        """One of two machines is down while holders are at it, and comes back."""
        ann, bob, away = self.ann, self.bob, f"{self.db2.control}: NOT done"
        self.db2.stop()
        ann.types("keymoot unlock ann-v9.parts", ends=3, sees=["already_loaded", "db1 is unlocked", away])
        self.db2.start()
        ann.types("keymoot unlock ann-v9.parts", ends=3, sees=["db1 is unlocked", "db2 is unlocking"])
        bob.types("keymoot unlock bob-v9.parts", sees=["already_loaded", "db1 is unlocked", "db2 is unlocked"])
        # The stand-by has played its part; from here on there is one node.
        self.db2.stop()
        self.profiles(self.db1)

    def everybody_has_proved(self):
        self.eve.types("keymoot holder prove eve-v9.parts", sees=["v9: eve has proved possession"])
        self.ops.types("keymoot status", sees=["db1 is unlocked", "needs nobody"])

    def a_service_writes(self):
        """Values, as services have them: three in the users' database, and one that nobody knows of."""
        self.web.types(f"printf 4000 | keymoot encrypt {KEY} > old-value")
        values = []
        for card in ("4111", "4222", "4333"):
            self.web.types(f"printf {card} | keymoot encrypt {KEY} > value")
            values.append(self.web.read("value").strip())
        users_database(self.folder, values)

    # --- June: the key is rotated --------------------------------------------------------------------------------

    def request(self, line):
        """The operator asks; the id that holders need."""
        screen = self.ops.types(f"keymoot {line}", sees=["0 of 2 consents", "keymoot holder consent"])
        return re.search(r"request ([0-9a-f-]{36})", screen).group(1)

    def new_packages(self, name, *people):
        """The operator fetches packages of v10 and sends them."""
        folder = f"packages-{name}"
        self.ops.types(f"keymoot rotate packages v10 --out {folder}", sees=[f"{folder}/ann.age"])
        for person in people:
            self.mail(self.ops, f"{folder}/{person.name}.age", person, f"{person.name}-{name}.age")

    def the_holders_consent(self):
        request = self.request("rotate stage")
        consent = f"keymoot holder consent {request}"
        self.ann.types(
            f"{consent} ann-v9.parts", NO, ends=1,
            sees=["operation: stage", "threshold: 2", "eve", "age1", "not consented; no share was sent"],
        )
        self.ann.types(f"{consent} ann-v9.parts", YES, sees=["1 of 2 consents"])
        self.ann.types(f"{consent} ann-v9.parts", YES, sees=["duplicate_share", "1 of 2 consents"])
        self.bob.types(f"{consent} bob-v9.parts", YES, sees=["v10 is staged"])

    def everybody_proves_v10(self):
        self.new_packages("v10", self.ann, self.bob, self.eve)
        self.open(self.ann, "v10")
        self.ops.types(
            "keymoot rotate activate v10", ends=4, sees=["not_loaded", "not_proved bob", "not_proved eve"],
        )
        for person in (self.bob, self.eve):
            self.open(person, "v10")
        self.ann.types("keymoot holder prove ann-v10.parts", sees=["v10: ann has proved possession"])
        self.ops.types("keymoot status", sees=["v10 is staged and proved"])

    def v10_is_loaded_and_activated(self):
        self.ann.types("keymoot unlock ann-v10.parts", ends=3, sees=["1 of 2"])
        self.bob.types("keymoot unlock bob-v10.parts", sees=["v10 validated"])
        self.ops.types("keymoot rotate activate v10 --dry-run", sees=["new values would be encrypted with v10"])
        self.ops.types("keymoot rotate activate v10", sees=["it is primary, and v10 encrypts"])
        self.ops.types("keymoot status", sees=["`keymoot rotate rollback v9` makes v9 primary again"])

    def v9_goes(self):
        self.ops.types("keymoot rekey start --watch", sees=["3 of 3 (100 %)"])
        self.ops.types("keymoot retire v9", ends=4, sees=["census_stale"])
        self.ops.types("keymoot retire v9 --wait", sees=["v9 is retired"])
        self.ann.types("keymoot unlock ann-v9.parts", ends=1, sees=["version_retired", "keep its shares"])
        self.ops.types("keymoot versions", sees=["retired"])

    # --- August: a laptop is lost ----------------------------------------------------------------------------------

    def bobs_laptop_is_lost(self):
        self.bob = self.person("bob", "bob-at-his-new-laptop")
        self.profile(self.bob, [self.db1])
        recipient = self.keygen(self.bob)
        request = self.request(f"rotate replace bob --with bob={recipient}")
        consent = f"keymoot holder consent {request}"
        self.ann.types(
            f"{consent} ann-v10.parts", YES, sees=["operation: replace", recipient, "1 of 2 consents"],
        )
        self.eve.types(f"{consent} eve-v10.parts", YES, sees=["done"])
        self.new_packages("v10b", self.ann, self.bob, self.eve)
        # Until enough new shares are proved the old ones count.
        self.open(self.bob, "v10b")
        self.ops.types("keymoot status", sees=["1 of 3 holders have proved theirs", "1 lost"])
        self.eve.types("keymoot holder prove eve-v10.parts", sees=["v10: eve has proved possession"])
        self.open(self.ann, "v10b")
        self.open(self.eve, "v10b")
        self.eve.types("keymoot holder prove eve-v10.parts", ends=1, sees=["share_replaced", "destroy"])
        self.ops.types("keymoot status", sees=["1 lost", "replaced and to be destroyed"])

    # --- January again: a move, the yearly drill, and what was thought to be over ------------------------------------

    def an_unlock_that_takes_too_long(self):
        """The machine was moved. Ann gives, and Eve comes eleven minutes later."""
        self.db1.stop()
        self.db1.clock(A_YEAR_LATER)
        self.db1.start()
        self.ann.types("keymoot unlock ann-v10b.parts", ends=3, sees=["v10 needs 1 more"])
        self.db1.clock(ELEVEN_MINUTES_LATER)
        self.eve.types("keymoot unlock eve-v10b.parts", ends=3, sees=["v10 needs 1 more"])
        self.ann.types("keymoot unlock ann-v10b.parts", sees=["db1 is unlocked"])

    def the_yearly_drill(self):
        self.ops.types("keymoot status", sees=["the yearly drill", "Z: the yearly drill is due"])
        for person in (self.bob, self.ann, self.eve):
            name = person.name
            line = f"keymoot holder prove {name}-v10b.parts"
            person.types(line, sees=[f"v10: {name} has proved possession"])
        self.ops.types("keymoot status", sees=["db1 is unlocked"], sees_not=["the yearly drill"])

    def v9_is_needed_once_more(self):
        self.ops.types("keymoot rotate restore v9", sees=["v9 is restored"])
        self.ann.types("keymoot unlock ann-v9.parts", ends=3, sees=["1 of 2"])
        self.eve.types("keymoot unlock eve-v9.parts", sees=["db1 is unlocked"])

    def a_restart_without_v10(self):
        """Ann and Eve come, and have their shares of v9 alone."""
        self.db1.stop()
        self.db1.start()
        self.ann.types("keymoot unlock ann-v9.parts", ends=3, sees=["v10 needs 2 more"])
        self.eve.types("keymoot unlock eve-v9.parts", ends=3, sees=["v10 needs 2 more"])
        self.ops.types("keymoot unlock --degraded v10", sees=["db1 is degraded"])
        self.ops.types("keymoot status", sees=["this node runs without v10"])
        self.web.types(f"keymoot decrypt {KEY} < old-value", sees=["4000"])
        self.web.types(f"printf 4444 | keymoot encrypt {KEY}", ends=3, sees=["key_version_unavailable"])
        # They find v10 after all: nothing was decided that could not be undone.
        self.ann.types("keymoot unlock ann-v10b.parts", ends=3, sees=["v10 needs 1 more"])
        self.eve.types("keymoot unlock eve-v10b.parts", sees=["db1 is unlocked"])
        self.ops.types("keymoot status", sees=["db1 is unlocked"], sees_not=["without v10"])

    # --- April: Eve leaves, Joe joins; and the worst day -----------------------------------------------------------

    def eve_leaves_and_joe_joins(self):
        self.joe = self.person("joe", "joe")
        self.profile(self.joe, [self.db1])
        recipient = self.keygen(self.joe)
        request = self.request(f"rotate reshare --holder ann --holder bob --holder joe={recipient}")
        for person, sees in ((self.ann, "1 of 2 consents"), (self.bob, "done")):
            person.types(
                f"keymoot holder consent {request} {person.name}-v10b.parts", YES,
                sees=["operation: reshare", "version: v10", recipient, sees],
            )
        self.new_packages("v10c", self.ann, self.bob, self.joe)
        for person in (self.joe, self.ann, self.bob):
            self.open(person, "v10c")
        self.eve.types("keymoot holder prove eve-v10b.parts", ends=1, sees=["share_replaced", "destroy"])
        # Whoever has Bob's lost laptop and Eve's old share has a threshold of one set: new shares don't help.
        self.ops.types("keymoot status", sees=["v10 may be rebuilt by others", "keymoot rotate stage"])

    def recovered_without_a_daemon(self):
        self.db1.stop()
        values = users_values(self.folder)
        self.ann.write("values.txt", "\n".join(values) + "\n")
        self.ann.write("witness.txt", f"{values[0]}\n")
        self.mail(self.joe, "joe-v10c.parts", self.ann, "joe-v10c.parts")
        recover = f"keymoot recover --witness witness.txt --key {KEY} --values values.txt"
        opened = [base64.b64encode(card).decode() for card in (b"4111", b"4222", b"4333")]
        self.ann.types(f"{recover} --parts ann-v10c.parts", ends=3, sees_not=opened)
        self.ann.types(f"{recover} --parts ann-v10c.parts joe-v10c.parts", sees=opened)
        # A share of another set rebuilds nothing with a new one.
        self.mail(self.eve, "eve-v10b.parts", self.ann, "eve-v10b.parts")
        self.ann.types(f"{recover} --parts ann-v10c.parts eve-v10b.parts", ends=3, sees_not=opened)


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
    year.a_node_that_is_away()
    year.everybody_has_proved()
    year.a_service_writes()
    year.the_holders_consent()
    year.everybody_proves_v10()
    year.v10_is_loaded_and_activated()
    year.v9_goes()
    year.bobs_laptop_is_lost()
    year.an_unlock_that_takes_too_long()
    year.the_yearly_drill()
    year.v9_is_needed_once_more()
    year.a_restart_without_v10()
    year.eve_leaves_and_joe_joins()
    year.recovered_without_a_daemon()


def main(keymoot, pages, *options):
    with tempfile.TemporaryDirectory() as folder:
        year = Year(os.path.realpath(keymoot), folder)
        try:
            act(year)
            check_pages(glob.glob(f"{pages}/*.md"), TEST, year.screens)
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
