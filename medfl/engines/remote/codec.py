"""Requests and replies as bytes, and back: safetensors with a JSON header. Nothing executable is ever decoded.

A message is one safetensors file of its vectors, with the rest as JSON in its metadata, under `HEADER`:

    {"kind": one of `REQUESTS`, "reply" or "failure", <the fields of that class that are no vectors>}

A receiver takes the fields of `medfl.engines.remote.message_fields` only, each of its type, vectors of one dimension,
of known kinds of number and at most as long as its own model, and a message of bounded size. What a site sends may hold
no text but short names: a longer string, or one with a path's separator in it, is refused where it would be sent and
where it would be received.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from medfl.engines.remote import pieces
from medfl.engines.remote.message_fields import FAILURE, REPLY, REQUESTS, Fields
from medfl.engines.remote.pieces import Message, SpooledMessage
from medfl.messages import Failure, KeyRequest, Reply, Request, StainRequest, TrainRequest, UnmaskRequest
from medfl.model.disk_vector import copied
from medfl.model.flat_model import FlatModel

PROTOCOL = 6
HEADER = f"medfl-{PROTOCOL}"
HEADER_LIMIT = 32_000_000  # bytes; the curves of a closing measurement are the largest, some 100 kB
VECTORS_LIMIT = 16  # links send one or two vectors beside the model
NAME_LIMIT = 64
REASON_LIMIT = 300
KINDS = {torch.float32, torch.bool, torch.uint8}
UPDATE = "update"  # may be of half the bytes
MASKED = "masked"  # the one vector of whole numbers: as long as weights and buffers together
ALONE = (StainRequest, KeyRequest, UnmaskRequest)  # carry no model


class BadMessage(ValueError):
    """Bytes that are no message of this protocol, or one that does not fit the model."""


@dataclass(frozen=True)
class Bounds:
    """What a message can hold: P and B values in the model's vectors, and the names of classes, free text otherwise."""

    weights: int
    buffers: int
    names: frozenset[str] = frozenset()

    @property
    def longest(self) -> int:
        """Values of the longest vector."""
        return max(self.weights, self.buffers)

    @property
    def message(self) -> int:
        """Bytes of the longest message."""
        return 2 * HEADER_LIMIT + VECTORS_LIMIT * 4 * self.longest

    @staticmethod
    def of(model: FlatModel) -> Bounds:
        """The bounds that a model sets."""
        return Bounds(model.layout.size, model.buffer_layout.size, frozenset(model.spec.classes))


def pack(message: Request | Reply | Failure, bounds: Bounds) -> Message:
    """The bytes of a message; in a temporary file where its vectors have more than `pieces.PIECE`.

    Raises:
        BadMessage: it holds what may not be sent. MedflError: a long one finds no room on the disk.
    """
    if isinstance(message, Request):
        kind = next(kind for kind, (made, _) in REQUESTS.items() if made is type(message))
        return _join(kind, _header_fields(message, REQUESTS[kind][1]), message.vectors())
    if isinstance(message, Reply):
        header = _header_fields(message, REPLY)
        _only_names(_told(header), bounds.names)
        return _join("reply", header, message.vectors())
    return _join("failure", _header_fields(message, FAILURE), {})


def unpack_request(data: Message, bounds: Bounds) -> Request:
    """A request, of the class that its kind names. Raises BadMessage."""
    header = _header(data)
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in REQUESTS:
        raise BadMessage("no request")
    made, fields = REQUESTS[kind]
    facts, vectors = _parted(data, header, kind, fields, bounds)
    weights, buffers = vectors.pop("weights", None), vectors.pop("buffers", None)
    if weights is None or buffers is None:
        raise BadMessage("a request without weights and buffers")
    asks_alone = made in ALONE
    _length("weights", weights, 0 if asks_alone else bounds.weights)
    _length("buffers", buffers, 0 if asks_alone else bounds.buffers)
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    extra = _extra(vectors)
    if made is TrainRequest:
        facts["extra"] = extra
    elif extra:
        raise BadMessage("a vector without a place in the message")
    return made(weights=weights, buffers=buffers, **facts)


def unpack_answer(data: Message, site: str, round_: int, bounds: Bounds) -> Reply | Failure:
    """What `site` answers to a request of a round. Raises BadMessage, also where it speaks for another."""
    header = _header(data)
    if header.get("kind") == "failure":
        facts, vectors = _parted(data, header, "failure", FAILURE, bounds)
        if vectors or len(facts["reason"]) > REASON_LIMIT or not facts["reason"].isprintable():
            raise BadMessage("a failure is one sentence")
        answer: Reply | Failure = replace(Failure(**facts), round=round_)  # which it may not have come to read
    else:
        facts, vectors = _parted(data, header, "reply", REPLY, bounds)
        _only_names(_told(facts), bounds.names)
        update, buffers, masked = (vectors.pop(name, None) for name in (UPDATE, "buffers", MASKED))
        dtype = torch.float32 if update is None else update.dtype
        if dtype == torch.bfloat16 and update is not None:
            update = copied(update, torch.float32)
        extra = _extra(vectors)
        for name, vector, wanted in ((UPDATE, update, bounds.weights), ("buffers", buffers, bounds.buffers)):
            if vector is not None:
                _length(name, vector, wanted)
        answer = Reply(update=update, buffers=buffers, masked=masked, extra=extra, update_dtype=dtype, **facts)
    if (answer.site, answer.round) != (site, round_):
        raise BadMessage("an answer in another site's name or to another round")
    return answer


def _header_fields(message: Request | Reply | Failure, fields: Fields) -> dict[str, Any]:
    return {name: getattr(message, name) for name in fields}


def _join(kind: str, facts: Mapping[str, Any], vectors: Mapping[str, Tensor]) -> Message:
    try:
        header = json.dumps({"kind": kind, **facts}, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise BadMessage(f"a {kind} that cannot be written: {error}") from None
    tensors = {name: vector.detach().cpu().contiguous() for name, vector in vectors.items()}
    if sum(vector.nbytes for vector in tensors.values()) > pieces.PIECE:
        return SpooledMessage.of_file(lambda path: save_file(tensors, path, {HEADER: header}))
    return bytes(save(tensors, {HEADER: header}))


def _plain(value: Any) -> Any:
    """Mappings that are no dictionaries, as JSON."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def _header(data: Message) -> dict[str, Any]:
    """The JSON header, out of the metadata: a u64 with their length comes first in safetensors, then they, as JSON."""
    if not isinstance(data, Message) or len(data) < 8:
        raise BadMessage("no message of this version of medfl")
    length = int.from_bytes(_part(data, 0, 8), "little")
    if length > HEADER_LIMIT or 8 + length > len(data):
        raise BadMessage("a header longer than the message or the limit")
    outer = _object(_part(data, 8, length))
    metadata = outer.get("__metadata__")
    text = metadata.get(HEADER) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise BadMessage("no message of this version of medfl")
    return _object(text)


def _part(data: Message, begin: int, count: int) -> bytes:
    return data.read(begin, count) if isinstance(data, SpooledMessage) else data[begin : begin + count]


def _object(text: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError):
        raise BadMessage("a header that is no JSON") from None
    if not isinstance(value, dict):
        raise BadMessage("a header that is no object")
    return value


def _no_constant(word: str) -> float:
    raise ValueError(word)


def _finite(digits: str) -> float:
    """A number that Python reads as infinite is none."""
    if math.isinf(value := float(digits)):
        raise ValueError(digits)
    return value


def _whole(digits: str) -> int:
    """An integer that a float can hold: one beyond raises where it is next reckoned with."""
    _finite(digits)
    return int(digits)


def _parted(
    data: Message, facts: dict[str, Any], kind: str, fields: Fields, bounds: Bounds
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The checked facts, which are its header, and vectors of a message."""
    if facts.pop("kind", None) != kind:
        raise BadMessage(f"no {kind}")
    if facts.keys() != fields.keys():
        raise BadMessage(f"a {kind} with unknown or missing fields")
    for name, fits in fields.items():
        if not fits(facts[name]):
            raise BadMessage(f"`{name}` of a {kind} is of the wrong type")
    if len(data) > bounds.message:
        raise BadMessage(f"a {kind} of {len(data):,} bytes, more than the model allows")
    try:
        vectors = load_file(data.path) if isinstance(data, SpooledMessage) else load(data)
    except (SafetensorError, KeyError, ValueError):
        raise BadMessage(f"the vectors of a {kind} cannot be read") from None
    if len(vectors) > VECTORS_LIMIT:
        raise BadMessage(f"a {kind} with {len(vectors)} vectors")
    for name, vector in vectors.items():
        if name == MASKED and vector.dtype == torch.int64 and vector.shape == (bounds.weights + bounds.buffers,):
            continue
        half = kind == "reply" and name == UPDATE and vector.dtype == torch.bfloat16
        if (vector.dtype not in KINDS and not half) or vector.dim() != 1 or vector.numel() > bounds.longest:
            raise BadMessage(f"the vector {name[:NAME_LIMIT]} of a {kind} is of the wrong kind or length")
    # Memory of their own: sums over a vector depend on where it begins. Half a vector gets it where it becomes whole.
    return facts, {name: v if v.dtype == torch.bfloat16 else copied(v) for name, v in vectors.items()}


def _extra(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vectors of methods, by name."""
    if not all(name.startswith("extra.") for name in vectors):
        raise BadMessage("a vector without a place in the message")
    return {name.removeprefix("extra."): vector for name, vector in vectors.items()}


def _length(name: str, vector: Tensor, wanted: int) -> None:
    if vector.dtype != torch.float32 or vector.numel() != wanted:
        raise BadMessage(f"the {name} have {vector.numel():,} values, the model {wanted:,}")


def _told(reply: Mapping[str, Any]) -> dict[str, Any]:
    """What of a reply has to be names and numbers: all but keys and seeds, which are hexadecimal."""
    return {name: value for name, value in reply.items() if name != "masking"}


def _only_names(value: Any, names: frozenset[str]) -> None:
    """Raise BadMessage for a string, or a key, that could be more than a name."""
    if isinstance(value, str):
        plain = len(value) <= NAME_LIMIT and "/" not in value and "\\" not in value and value.isprintable()
        if not plain and value not in names:
            raise BadMessage("a reply may hold names and numbers only")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _only_names(key, names)
            _only_names(item, names)
    elif isinstance(value, list | tuple):
        for item in value:
            _only_names(item, names)
