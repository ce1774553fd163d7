#!/usr/bin/env python3
"""A second implementation of Keymoot's formats, from docs/formats.md alone, that shares no code with the first.

Only Python's standard library: AES, GCM, XAES, Ed25519 and bech32m are written out below, slowly and plainly.

    oracle.py                  checks itself against tests/vectors/keymoot-v1.json
    oracle.py COMMAND < JSON   answers in JSON, or ends with 1 and what is wrong on stderr

`shares` in a request are share texts of any versions; a version's root is rebuilt from all that are given of it.
"""

import base64
import hashlib
import hmac
import json
import os
import sqlite3
import sys

# --- AES-256 -----------------------------------------------------------------------------------------------------


def gf_mul(a, b, polynomial):
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= polynomial
        b >>= 1
    return product


def make_sbox():
    sbox = []
    for value in range(256):
        inverse = next((other for other in range(256) if gf_mul(value, other, 0x11B) == 1), 0)
        out = 0x63
        for shift in range(5):
            out ^= (inverse << shift | inverse >> (8 - shift)) & 0xFF
        sbox.append(out)
    return sbox


SBOX = make_sbox()
TABLES = [[], [], [], []]
for s in SBOX:
    two, three = gf_mul(s, 2, 0x11B), gf_mul(s, 3, 0x11B)
    for table, column in zip(TABLES, [(two, s, s, three), (three, two, s, s), (s, three, two, s), (s, s, three, two)]):
        table.append(int.from_bytes(bytes(column), "big"))


class Aes256:
    def __init__(self, key):
        words = [int.from_bytes(key[i : i + 4], "big") for i in range(0, 32, 4)]
        rcon = 1
        for i in range(8, 60):
            word = words[i - 1]
            if i % 8 == 0:
                word = self.sub((word << 8 | word >> 24) & 0xFFFFFFFF) ^ rcon << 24
                rcon = gf_mul(rcon, 2, 0x11B)
            elif i % 8 == 4:
                word = self.sub(word)
            words.append(words[i - 8] ^ word)
        self.words = words

    @staticmethod
    def sub(w):
        return SBOX[w >> 24] << 24 | SBOX[w >> 16 & 255] << 16 | SBOX[w >> 8 & 255] << 8 | SBOX[w & 255]

    def encrypt(self, block):
        t0, t1, t2, t3 = TABLES
        k = self.words
        s = [int.from_bytes(block[4 * i : 4 * i + 4], "big") ^ k[i] for i in range(4)]
        for r in range(4, 56, 4):
            s = [
                t0[s[i] >> 24] ^ t1[s[(i + 1) & 3] >> 16 & 255] ^ t2[s[(i + 2) & 3] >> 8 & 255] ^ t3[s[(i + 3) & 3] & 255] ^ k[r + i]
                for i in range(4)
            ]
        out = b""
        for i in range(4):
            word = s[i] & 0xFF000000 | s[(i + 1) & 3] & 0xFF0000 | s[(i + 2) & 3] & 0xFF00 | s[(i + 3) & 3] & 0xFF
            out += (self.sub(word) ^ k[56 + i]).to_bytes(4, "big")
        return out


# --- AES-256-GCM and XAES-256-GCM --------------------------------------------------------------------------------


class Wrong(Exception):
    """It does not authenticate, or is not of the format."""


def gcm_multiply(x, h):
    z = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= h
        h = h >> 1 ^ (0xE1 << 120 if h & 1 else 0)
    return z


def gcm(key, nonce, data, associated_data):
    """The key stream over `data`, and a function from ciphertext to tag."""
    aes = Aes256(key)
    h = int.from_bytes(aes.encrypt(bytes(16)), "big")
    stream = b"".join(aes.encrypt(nonce + (i + 2).to_bytes(4, "big")) for i in range((len(data) + 15) // 16))
    first = int.from_bytes(aes.encrypt(nonce + b"\0\0\0\1"), "big")

    def tag(ciphertext):
        pad = lambda text: text + bytes(-len(text) % 16)
        lengths = (8 * len(associated_data)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
        text = pad(associated_data) + pad(ciphertext) + lengths
        y = 0
        for i in range(0, len(text), 16):
            y = gcm_multiply(y ^ int.from_bytes(text[i : i + 16], "big"), h)
        return (y ^ first).to_bytes(16, "big")

    return bytes(a ^ b for a, b in zip(data, stream)), tag


def gcm_seal(key, nonce, plaintext, associated_data):
    ciphertext, tag = gcm(key, nonce, plaintext, associated_data)
    return ciphertext + tag(ciphertext)


def gcm_open(key, nonce, sealed, associated_data):
    ciphertext = sealed[:-16]
    plaintext, tag = gcm(key, nonce, ciphertext, associated_data)
    if not hmac.compare_digest(tag(ciphertext), sealed[-16:]):
        raise Wrong("authentication_failed")
    return plaintext


MASKED = {}


def xaes_key(key, nonce):
    if key not in MASKED:
        aes = Aes256(key)
        l = int.from_bytes(aes.encrypt(bytes(16)), "big")
        k1 = (l << 1) & (1 << 128) - 1 ^ (0x87 if l >> 127 else 0)
        MASKED[key] = (aes, k1)
    aes, k1 = MASKED[key]
    block = lambda n: (int.from_bytes(bytes([0, n]) + b"X\0" + nonce[:12], "big") ^ k1).to_bytes(16, "big")
    return aes.encrypt(block(1)) + aes.encrypt(block(2))


def xaes_seal(key, nonce, plaintext, associated_data):
    return gcm_seal(xaes_key(key, nonce), nonce[12:], plaintext, associated_data)


def xaes_open(key, nonce, sealed, associated_data):
    return gcm_open(xaes_key(key, nonce), nonce[12:], sealed, associated_data)


# --- Shares ------------------------------------------------------------------------------------------------------

BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def bech32_checksum(words):
    check = 1
    for word in [ord(c) >> 5 for c in "kmshare"] + [0] + [ord(c) & 31 for c in "kmshare"] + words:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ word
        for bit, generator in enumerate([0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3]):
            if top >> bit & 1:
                check ^= generator
    return check


def regroup(values, have, want):
    number, bits, out = 0, 0, []
    for value in values:
        number, bits = number << have | value, bits + have
        while bits >= want:
            bits -= want
            out.append(number >> bits & (1 << want) - 1)
    return out, number & (1 << bits) - 1, bits


def share_text(payload):
    words, rest, bits = regroup(payload, 8, 5)
    if bits:
        words.append(rest << 5 - bits)
    check = bech32_checksum(words + [0] * 6) ^ 0x2BC830A3
    return "kmshare1" + "".join(BECH32[w] for w in words + [check >> 5 * (5 - i) & 31 for i in range(6)])


def share_parse(text):
    if len(text) != 88 or not text.startswith("kmshare1"):
        raise Wrong("not a share")
    words = [BECH32.index(c) for c in text[8:]]
    if bech32_checksum(words) != 0x2BC830A3:
        raise Wrong("checksum")
    payload, rest, _ = regroup(words[:-6], 5, 8)
    payload = bytes(payload)
    if rest or payload[0] != 1:
        raise Wrong("not a share")
    return {"keyring_id": payload[1:9], "version": int.from_bytes(payload[9:13], "big"), "x": payload[13], "y": payload[14:]}


def share_payload(keyring_id, version, x, y, kind=1):
    return bytes([kind]) + keyring_id + version.to_bytes(4, "big") + bytes([x]) + y


def share_digest(share):
    return hashlib.sha256(b"keymoot/v1/share" + share_payload(share["keyring_id"], share["version"], share["x"], share["y"])[1:]).digest()


def combine(shares):
    """Lagrange at 0, in GF(2^8) with 0x11d."""
    mul = lambda a, b: gf_mul(a, b, 0x11D)

    def inverse(a):
        out = 1
        for _ in range(254):
            out = mul(out, a)
        return out

    root = bytearray(32)
    for one in shares:
        weight = 1
        for other in shares:
            if other["x"] != one["x"]:
                weight = mul(weight, mul(other["x"], inverse(other["x"] ^ one["x"])))
        for i, y in enumerate(one["y"]):
            root[i] ^= mul(weight, y)
    return bytes(root)


# --- Keys --------------------------------------------------------------------------------------------------------


class Root:
    def __init__(self, keyring_id, version, root):
        self.version, self.root = version, root
        self.prk = hmac.digest(keyring_id, root, "sha256")
        self.data_keys = {}

    def expand(self, info, length):
        out, block = b"", b""
        for counter in range(1, 1 + -(-length // 32)):
            block = hmac.digest(self.prk, block + info + bytes([counter]), "sha256")
            out += block
        return out[:length]

    def data_key(self, name):
        if name not in self.data_keys:
            self.data_keys[name] = self.expand(b"keymoot/v1/data-key/" + name.encode(), 32)
        return self.data_keys[name]

    def key_id(self):
        return self.expand(b"keymoot/v1/key-id", 16)

    def key_check(self, threshold, shares):
        record = self.version.to_bytes(4, "big") + bytes([threshold, len(shares)])
        for share in sorted(shares, key=lambda share: share["x"]):
            record += bytes([share["x"]]) + share_digest(share)
        return hmac.digest(self.expand(b"keymoot/v1/key-check", 32), record, "sha256")

    def secrets(self, names):
        """Everything that leads to a plaintext or to a gate, by what it is called."""
        found = {"root": self.root, "prk": self.prk}
        for label in ["key-check", "manifest", "signing"]:
            found[label] = self.expand(b"keymoot/v1/" + label.encode(), 32)
        for name in names:
            found["data key of " + name] = self.data_key(name)
        return found


def roots_of(texts):
    versions = {}
    for text in texts:
        share = share_parse(text)
        versions.setdefault(share["version"], []).append(share)
    return {version: Root(shares[0]["keyring_id"], version, combine(shares)) for version, shares in versions.items()}


# --- Values ------------------------------------------------------------------------------------------------------


def bound(label, name, associated_data=b"", version=None):
    number = b"" if version is None else version.to_bytes(4, "big")
    return b"keymoot/v1/" + label + number + bytes([len(name)]) + name.encode() + associated_data


def parse_value(value):
    """Of a text or bytes: (version, body)."""
    if isinstance(value, bytes) and value.startswith(b"KM\1"):
        return int.from_bytes(value[3:7], "big"), value[7:]
    text = value.decode() if isinstance(value, bytes) else value
    if not text.startswith("km:v"):
        raise Wrong("not a value")
    number, _, body = text[4:].partition(":")
    if not (number.isascii() and number.isdigit()) or number[0] == "0" or int(number) > 0xFFFFFFFF:
        raise Wrong("malformed version")
    decoded = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != body:
        raise Wrong("malformed base64url")
    return int(number), decoded


def spell(version, body, binary):
    if binary:
        return b"KM\1" + version.to_bytes(4, "big") + body
    return "km:v%d:%s" % (version, base64.urlsafe_b64encode(body).rstrip(b"=").decode())


def open_value(roots, name, value, associated_data=b""):
    version, body = parse_value(value)
    if version not in roots:
        raise Wrong("unknown version %d" % version)
    key = roots[version].data_key(name)
    if body[0] == 1:
        return xaes_open(key, body[1:25], body[25:], bound(b"value", name, associated_data, version))
    if body[0] == 2:
        dek = xaes_open(key, body[1:25], body[25:73], bound(b"dek", name, b"", version))
        return gcm_open(dek, body[73:85], body[85:], bound(b"payload", name, associated_data))
    raise Wrong("not a value's body")


def open_data_key(roots, name, value):
    version, body = parse_value(value)
    if body[0] != 3:
        raise Wrong("not a data key's body")
    return xaes_open(roots[version].data_key(name), body[1:25], body[25:], bound(b"dek", name, b"", version))


def make_value(root, name, plaintext, associated_data, kind, binary):
    key, version = root.data_key(name), root.version
    if kind == 1:
        nonce = os.urandom(24)
        body = b"\1" + nonce + xaes_seal(key, nonce, plaintext, bound(b"value", name, associated_data, version))
    else:
        dek, nonce, inner = os.urandom(32), os.urandom(24), os.urandom(12)
        wrapped = nonce + xaes_seal(key, nonce, dek, bound(b"dek", name, b"", version))
        body = b"\2" + wrapped + inner + gcm_seal(dek, inner, plaintext, bound(b"payload", name, associated_data))
    return spell(version, body, binary)


# --- Ed25519 (RFC 8032), verifying only --------------------------------------------------------------------------

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493


def point_add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def point_multiply(s, p):
    q = (0, 1, 1, 0)
    while s:
        if s & 1:
            q = point_add(q, p)
        p = point_add(p, p)
        s >>= 1
    return q


def point_parse(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        raise Wrong("not a point")
    return point_of(P - x if x & 1 != sign else x, y)


def point_of(x, y):
    return (x, y, 1, x * y % P)


BASE = point_parse((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519_verifies(public_key, message, signature):
    a, r, s = point_parse(public_key), point_parse(signature[:32]), int.from_bytes(signature[32:], "little")
    if s >= ORDER:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % ORDER
    left, right = point_multiply(s, BASE), point_add(r, point_multiply(h, a))
    return all((left[i] * right[2] - right[i] * left[2]) % P == 0 for i in (0, 1))


def canonical(value):
    """RFC 8785, for what Keymoot signs: ASCII names and whole numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# --- Commands ----------------------------------------------------------------------------------------------------


def table(request):
    """Opens every row of a table and compares. `expected`: [[id, {"plaintext"} | {"as_is", "blob"?}], …]

    The rows are in a SQLite file (`db`, `sql`), or were read by somebody else: `rows`: [[id, text or null], …], where a
    `binary` column's are in hex. `associated_data`: what binds each to its row, with `{id}` in it.
    """
    roots, key, bound_to = roots_of(request["shares"]), request["key"], request.get("associated_data", "")
    if "rows" in request:
        rows = request["rows"]
        if request.get("binary"):
            rows = [[id, None if stored is None else bytes.fromhex(stored)] for id, stored in rows]
    else:
        with sqlite3.connect("file:%s?mode=ro" % request["db"], uri=True) as connection:
            rows = connection.execute(request["sql"]).fetchall()
    expected, wrong, versions = {id: fact for id, fact in request["expected"]}, [], {}
    if len(expected) != len(request["expected"]):
        wrong.append("expected names a row twice")
    for id, stored in rows:
        fact = expected.pop(id, None)
        if fact is None:
            wrong.append("row %r is there and should not, or is there twice" % id)
        elif "as_is" in fact:
            wanted = bytes.fromhex(fact["as_is"]) if fact.get("blob") else fact["as_is"]
            if stored != wanted:
                wrong.append("row %r was changed" % id)
        else:
            try:
                version = parse_value(stored)[0]
                versions[version] = versions.get(version, 0) + 1
                if open_value(roots, key, stored, bound_to.replace("{id}", str(id)).encode()).decode() != fact["plaintext"]:
                    wrong.append("row %r opens to something else than %r" % (id, fact["plaintext"]))
            except (Wrong, ValueError, TypeError, AttributeError) as error:
                wrong.append("row %r does not open: %s" % (id, error))
    wrong.extend("row %r is missing" % id for id in expected)
    if wrong:
        raise Wrong("%d wrong of %d rows: %s" % (len(wrong), len(rows), "; ".join(wrong[:20])))
    return {"rows": len(rows), "versions": sorted(versions.items())}


def make(request):
    """Every plaintext (hex) as 0x01 and 0x02, in text and in binary (hex)."""
    root = roots_of(request["shares"])[request["version"]]
    associated_data = bytes.fromhex(request.get("associated_data", ""))
    values = []
    for plaintext in map(bytes.fromhex, request["plaintexts"]):
        for kind in (1, 2):
            text = make_value(root, request["key"], plaintext, associated_data, kind, False)
            binary = make_value(root, request["key"], plaintext, associated_data, kind, True)
            values.append({"plaintext": plaintext.hex(), "kind": kind, "text": text, "binary": binary.hex()})
    return values


def read(request):
    roots, associated_data = roots_of(request["shares"]), bytes.fromhex(request.get("associated_data", ""))
    return [open_value(roots, request["key"], value, associated_data).hex() for value in request["values"]]


def read_data_keys(request):
    roots = roots_of(request["shares"])
    return [open_data_key(roots, request["key"], value).hex() for value in request["values"]]


def secrets(request):
    found = {}
    for version, root in roots_of(request["shares"]).items():
        for name, secret in root.secrets(request["keys"]).items():
            found["%s, v%d" % (name, version)] = secret.hex()
    for text in request["all_shares"]:
        share = share_parse(text)
        found["y of x %d, v%d" % (share["x"], share["version"])] = share["y"].hex()
    return found


def key_ids(request):
    return {str(version): root.key_id().hex() for version, root in roots_of(request["shares"]).items()}


def shares(request):
    """Share texts with a right checksum and any content."""
    return [
        share_text(share_payload(bytes.fromhex(s["keyring_id"]), s["version"], s["x"], bytes.fromhex(s["y"]), s.get("kind", 1)))
        for s in request
    ]


def certificate(request):
    signature = base64.b64decode(request["signature"])
    message = b"keymoot/v1/signed" + canonical(request["certificate"])
    return ed25519_verifies(bytes.fromhex(request["public_key"]), message, signature)


def audit(request):
    """Verifies the files of one audit log, in their order, and every signature of its checkpoints."""
    seq, digest, last, checkpoints = 0, "0" * 64, None, 0
    for path in request["files"]:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
        if lines.pop():
            raise Wrong("%s ends without a line feed" % path)
        for number, line in enumerate(lines, 1):
            wrong = lambda why: Wrong("%s:%d: %s" % (path, number, why))
            record = json.loads(line)
            seq += 1
            if canonical(record) != line:
                raise wrong("not canonical")
            named = record.pop("hash")
            if hashlib.sha256(canonical(record)).hexdigest() != named:
                raise wrong("altered")
            if (record["seq"], record["previous"]) != (seq, digest):
                raise wrong("seq %s does not follow" % record["seq"])
            if record["event"] == "checkpoint":
                facts, checkpoints = record["facts"], checkpoints + 1
                head = facts["head"]
                if (head["seq"], head["hash"], head["node"]) != (seq - 1, last, record["node"]):
                    raise wrong("a checkpoint of something else")
                message = b"keymoot/v1/signed" + canonical({"audit": head})
                key, signature = (base64.b64decode(facts[name]) for name in ("public_key", "signature"))
                if not ed25519_verifies(key, message, signature):
                    raise wrong("the signature is wrong")
            digest, last = hashlib.sha256(line).hexdigest(), named
    return {"lines": seq, "head": last, "checkpoints": checkpoints}


# --- The vectors -------------------------------------------------------------------------------------------------


def check_vectors():
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "vectors", "keymoot-v1.json"), encoding="utf-8") as file:
        vectors = json.load(file)
    same = lambda a, b, what: None if a == b else sys.exit("%s differs: %r, not %r" % (what, a, b))
    sealed = xaes_seal(b"\1" * 32, b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM", b"")
    same(sealed.hex(), "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271", "XAES-256-GCM")
    rfc8032 = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    same(ed25519_verifies(rfc8032, b"", signature), True, "a signature")
    same(ed25519_verifies(rfc8032, b"x", signature), False, "a wrong signature")
    roots, checked = {}, 3
    for version in vectors["versions"]:
        parsed = [share_parse(share["text"]) for share in version["shares"]]
        for share, text in zip(parsed, version["shares"]):
            same(share_digest(share).hex(), text["digest"], "a digest")
            same(share_text(share_payload(share["keyring_id"], share["version"], share["x"], share["y"])), text["text"], "a text")
        threshold = version["threshold"]
        for chosen in (parsed[:threshold], parsed[-threshold:]):
            same(combine(chosen).hex(), version["root"], "a root")
        root = Root(bytes.fromhex(vectors["keyring_id"]), version["version"], bytes.fromhex(version["root"]))
        same(root.key_id().hex(), version["key_id"], "a key id")
        same(root.key_check(threshold, parsed).hex(), version["key_check"], "a key check")
        roots[version["version"]] = root
        checked += 2 * len(parsed) + 4
    for value in vectors["values"]:
        for spelt in (value["text"], bytes.fromhex(value["binary"])):
            opened = open_value(roots, value["key"], spelt, bytes.fromhex(value["associated_data"]))
            same(opened.hex(), value["plaintext"], "a value")
            checked += 1
    for value in vectors["datakeys"]:
        same(open_data_key(roots, value["key"], value["text"]).hex(), value["plaintext"], "a data key")
        checked += 1
    for value in vectors["rejected"]:
        try:
            open_value(roots, value["key"], value["text"], bytes.fromhex(value["associated_data"]))
        except (Wrong, ValueError, IndexError):
            checked += 1
            continue
        sys.exit("opened what must be refused: " + value["why"])
    for mac in vectors["manifest"]["macs"]:
        key = roots[mac["version"]].expand(b"keymoot/v1/manifest", 32)
        same(hmac.digest(key, vectors["manifest"]["canonical_without_macs"].encode(), "sha256").hex(), mac["mac"], "a mac")
        checked += 1
    print("%d vectors agree" % checked)


COMMANDS = {f.__name__: f for f in (table, make, read, read_data_keys, secrets, key_ids, shares, certificate, audit)}

if __name__ == "__main__":
    if len(sys.argv) == 1:
        check_vectors()
    else:
        try:
            json.dump(COMMANDS[sys.argv[1]](json.load(sys.stdin)), sys.stdout)
        except Wrong as wrong:
            sys.exit(str(wrong))
