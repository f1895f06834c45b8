"""A strict reader of ReadRows streams, written from the public comments on `CellChunk`.

It refuses whatever a client may refuse, so that a test that reads through it checks the chunking as well.
A cell is a tuple: family, qualifier, timestamp, value, labels.
"""


class BadChunk(AssertionError):
    """The stream breaks a rule."""


def _require(held, rule, chunk):
    if not held:
        raise BadChunk(f"{rule}: {chunk!r}"[:600])


def decode(stream, reverse=False, sizes=None):
    """Yields (key, cells). `sizes`, a list, takes the encoded size of each message."""
    last_key = None
    key = family = qualifier = None
    cells, partial, size = [], None, 0
    for response in stream:
        response = response._pb if hasattr(response, "_pb") else response
        if sizes is not None:
            sizes.append(response.ByteSize())
        for chunk in response.chunks:
            status = chunk.WhichOneof("row_status")
            if status == "reset_row":
                _require(chunk.reset_row, "reset_row is set to false", chunk)
                bare = not (chunk.row_key or chunk.HasField("family_name") or chunk.HasField("qualifier"))
                bare = bare and not (chunk.timestamp_micros or chunk.labels or chunk.value or chunk.value_size)
                _require(bare and key is not None, "a reset carries data or has no row", chunk)
                key = family = qualifier = partial = None
                cells = []
                continue
            if key is None:
                _require(chunk.row_key, "the first chunk of a row has no key", chunk)
                in_order = last_key is None or (chunk.row_key < last_key if reverse else chunk.row_key > last_key)
                _require(in_order, "keys are out of order", chunk)
                _require(chunk.HasField("family_name"), "a row begins without a family", chunk)
                key = chunk.row_key
            else:
                _require(chunk.row_key in (b"", key), "the key changes within a row", chunk)
            if partial is None:
                if chunk.HasField("family_name"):
                    _require(chunk.HasField("qualifier"), "a new family has no qualifier", chunk)
                    family = chunk.family_name.value
                if chunk.HasField("qualifier"):
                    qualifier = chunk.qualifier.value
                head = (family, qualifier, chunk.timestamp_micros, tuple(chunk.labels))
                partial, size = b"", chunk.value_size
            else:
                bare = not (chunk.HasField("family_name") or chunk.HasField("qualifier"))
                bare = bare and not chunk.labels and not chunk.timestamp_micros
                _require(bare, "a value's later piece names a cell", chunk)
            partial += chunk.value
            if chunk.value_size:
                _require(status != "commit_row", "a row is committed within a value", chunk)
                _require(chunk.value_size == size, "value_size changes within a value", chunk)
                continue
            _require(size in (0, len(partial)), "a value is not of its value_size", chunk)
            cells.append((head[0], head[1], head[2], partial, head[3]))
            partial = None
            if status == "commit_row":
                _require(chunk.commit_row, "commit_row is set to false", chunk)
                yield key, cells
                last_key, key, family, qualifier, cells = key, None, None, None, []
        if response.last_scanned_row_key:
            _require(key is None, "last_scanned_row_key comes within a row", response)
            scanned = response.last_scanned_row_key
            in_order = last_key is None or (scanned <= last_key if reverse else scanned >= last_key)
            _require(in_order, "last_scanned_row_key goes back", response)
            last_key = scanned
    _require(key is None and partial is None, "the stream ends within a row", key)
