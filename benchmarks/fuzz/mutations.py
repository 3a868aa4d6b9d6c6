"""Mutations of bytes, of text by tokens, of JSON by its tree, of protobufs by messages, of archives by entries."""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

import onnx
from google.protobuf.message import DecodeError, Message

Mutation: TypeAlias = Callable[[bytes, Random], bytes]

NUMBERS = (0, 1, -1, 2, 3, 7, 64, 127, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63), 2**64)
TEXTS = (
    *(
        "",
        " ",
        "x",
        "none",
        "../x",
        "/etc/passwd",
        "\x1b[31mred\x1b[0m",
        "\u202etxt",
        "a\nb",
        "\0",
        "%s%n",
        "é",
        "日本",
    ),
    *("x" * 5000, "1e999", "nan", "-inf", "2024-01-01", "~", "[]", "{}", "batch**9**9", "(" * 300, "batch*7//0"),
)
_TOKEN = re.compile(r"\w+|\s+|.", re.DOTALL)


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Flip, cut, repeat or exchange some bytes."""
    data = bytearray(content)
    place, length = random.randrange(len(data) + 1), random.choice((1, 1, 2, 4, 8, 64))
    match random.randrange(6):
        case 0 if place < len(data):
            data[place] ^= 1 << random.randrange(8)
        case 1:
            data[place : place + length] = random.randbytes(length)
        case 2:
            del data[place : place + length]
        case 3:
            data[place:place] = data[place : place + length] * random.choice((1, 2, 1000))
        case 4:
            del data[place:]
        case _:
            size = random.choice((1, 2, 4, 8))
            number = random.choice(NUMBERS) % 256**size
            data[place : place + size] = number.to_bytes(size, random.choice(("little", "big")))
    return bytes(data)


def mutate_text(content: bytes, random: Random) -> bytes:
    """Drop, repeat, exchange or replace tokens."""
    tokens = _TOKEN.findall(content.decode(errors="replace")) or [""]
    place, other = random.randrange(len(tokens)), random.randrange(len(tokens))
    match random.randrange(6):
        case 0:
            del tokens[place]
        case 1:
            tokens[place:place] = tokens[place : place + random.choice((1, 5, 50))] * random.choice((1, 2, 100))
        case 2:
            tokens[place], tokens[other] = tokens[other], tokens[place]
        case 3:
            tokens[place] = str(random.choice(NUMBERS))
        case 4:
            tokens[place] = random.choice(TEXTS)
        case _:
            numbers = [index for index, token in enumerate(tokens) if token.isdigit()] or [place]
            tokens[random.choice(numbers)] = str(random.choice(NUMBERS))
    return "".join(tokens).encode(errors="surrogatepass")


def mutate_json(content: bytes, random: Random) -> bytes:
    """Drop, rename, repeat, exchange or replace values."""
    try:
        tree = [json.loads(content)]
    except ValueError:
        return mutate_text(content, random)
    slots = list(_slots(tree))
    holder, key = random.choice(slots)
    other_holder, other_key = random.choice(slots)
    match random.randrange(6):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random.choice(TEXTS)] = holder.pop(key)
        case 2 if isinstance(holder, list) and holder is not tree:
            holder.insert(key, holder[key])
        case 3:
            holder[key] = json.loads(json.dumps(other_holder[other_key]))
        case 4:
            holder[key] = random.choice((*NUMBERS, 1.5, float("nan"), None, True, [], {}, [[]]))
        case _:
            holder[key] = random.choice(TEXTS)
    return json.dumps(tree[0]).encode()


def _slots(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree, as what holds it and its key there."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        holder = pending.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
        found += [(holder, key) for key in keys]
        pending += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


def mutate_onnx(content: bytes, random: Random) -> bytes:
    """Mutate a field of some message in a model."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return mutate_bytes(content, random)
    messages = list(_messages(model))
    message = random.choice(messages)
    field = random.choice(message.DESCRIPTOR.fields)
    kin = [other for other in messages if other.DESCRIPTOR is message.DESCRIPTOR]
    try:
        match random.randrange(4):
            case 0:
                message.ClearField(field.name)
            case 1 if len(kin) > 1:
                _copy(message, random.choice(kin), field)
            case _:
                _set(message, field, messages, random)
    except (ValueError, TypeError):  # beyond the field's type, which the bytes may be as well
        return mutate_bytes(content, random)
    return model.SerializeToString()


def _messages(message: Message) -> list[Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                found += _messages(inner)
    return found


def _copy(message: Any, other: Any, field: Any) -> None:
    """Give a message what another of its kind holds, from a copy: protobuf crashes where one lies around the other."""
    other = type(other).FromString(other.SerializePartialToString())
    if field.is_repeated:
        held = list(getattr(other, field.name))
        getattr(message, field.name).extend(held)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(getattr(other, field.name))
    else:
        setattr(message, field.name, getattr(other, field.name))


def _set(message: Any, field: Any, messages: list[Any], random: Random) -> None:
    """Put something else into a field, or one more into one that is repeated."""
    if field.message_type is not None:
        same = [other for other in messages if other.DESCRIPTOR is field.message_type]
        chosen = field.message_type._concrete_class()
        if same and random.random() < 0.8:
            chosen.CopyFrom(random.choice(same))
        if field.is_repeated:
            row = getattr(message, field.name)
            row.insert(random.randrange(len(row) + 1), chosen)
        else:
            getattr(message, field.name).CopyFrom(chosen)
        return
    value = _scalar(field, messages, random)
    if not field.is_repeated:
        setattr(message, field.name, value)
        return
    row = getattr(message, field.name)
    if len(row) and random.random() < 0.7:
        row[random.randrange(len(row))] = value
    else:
        row.append(value)


def _scalar(field: Any, messages: list[Any], random: Random) -> Any:
    if field.enum_type is not None:
        return random.choice([value.number for value in field.enum_type.values])
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return random.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), 0.5))
    if field.cpp_type != field.CPPTYPE_STRING:
        return random.choice((*NUMBERS, *range(1, 29)))
    known = [getattr(other, name) for other in messages for name in ("name", "op_type") if hasattr(other, name)]
    for other in messages:
        known += [*getattr(other, "input", ()), *getattr(other, "output", ())] if hasattr(other, "op_type") else []
    texts = [text for text in known if isinstance(text, str)] if random.random() < 0.7 else TEXTS
    text = random.choice(texts or TEXTS)
    return text.encode() if field.type == field.TYPE_BYTES else text


def mutate_archive(content: bytes, random: Random) -> bytes:
    """Mutate, rename, repeat or drop an entry of a zip archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # an earlier mutation left no archive
        return mutate_bytes(content, random)
    if not entries:
        return mutate_bytes(content, random)
    place = random.randrange(len(entries))
    name, held = entries[place]
    match random.randrange(8):
        case 0:
            del entries[place]
        case 1:
            entries[place] = (random.choice(TEXTS[:12]) or "y", held)
        case 2:
            entries.append((name, held))
        case 3:
            entries[place] = (name, random.choice(entries)[1])
        case _ if held.lstrip()[:1] in (b"{", b"["):
            entries[place] = (name, mutate_json(held, random))
        case _:
            entries[place] = (name, mutate_bytes(held, random))
    written = io.BytesIO()
    packing = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(written, "w", packing) as archive:
        for name, held in entries:
            archive.writestr(name.replace("\0", ""), held)
    return written.getvalue()


def mutate_npz(content: bytes, random: Random) -> bytes:
    """Mutate the header of an array as text, or the archive."""
    if random.random() < 0.5:
        return mutate_archive(content, random)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, held in entries.items():
            size = 10 + int.from_bytes(held[8:10], "little")
            header = mutate_text(held[10:size].rstrip(), random)[:60000] + b"\n"
            archive.writestr(name, held[:8] + len(header).to_bytes(2, "little") + header + held[size:])
    return written.getvalue()


def mutate_planish(content: bytes, random: Random) -> bytes:
    """Mutate the graph's text, or the table of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size], content[8 + size :]
    if random.random() < 0.3:
        header = mutate_json(header, random)
    else:
        table = json.loads(header)
        text = table["__metadata__"]["planish"].encode()
        table["__metadata__"]["planish"] = mutate_text(text, random).decode(errors="replace")
        header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


def several(mutation: Mutation, content: bytes, random: Random) -> bytes:
    """One to four mutations, now and then of bytes."""
    for _ in range(random.choice((1, 1, 2, 4))):
        try:
            chosen = mutate_bytes if random.random() < 0.1 else mutation
            content = chosen(content, random)
        except Exception:
            content = mutate_bytes(content, random)  # an earlier one left no such structure
    return content
