// The numbers of the proxy-wasm ABI 0.2.1, and its form of a header map.
//
// Everything that crosses the border is bytes, which nobody has checked to be UTF-8. Here they are strings with one
// character for each byte: `utf8` makes one of a text.

export const Status = {
  OK: 0,
  NOT_FOUND: 1,
  BAD_ARGUMENT: 2,
  CAS_MISMATCH: 8,
  INTERNAL_FAILURE: 10,
};

export const Maps = {
  REQUEST_HEADERS: 0,
  REQUEST_TRAILERS: 1,
  RESPONSE_HEADERS: 2,
  RESPONSE_TRAILERS: 3,
  HTTP_CALL_RESPONSE_HEADERS: 6,
  HTTP_CALL_RESPONSE_TRAILERS: 7,
};

export const Buffers = {
  REQUEST_BODY: 0,
  RESPONSE_BODY: 1,
  HTTP_CALL_RESPONSE_BODY: 4,
  VM_CONFIGURATION: 6,
  PLUGIN_CONFIGURATION: 7,
};

/** The low two bits of a metric's id are its kind, and the rest counts up. */
export const METRIC_KINDS = ["counter", "gauge", "histogram"];
export const ID_STEP = 4;

export const utf8 = (text) => Buffer.from(text, "utf8").latin1Slice();

/** A whole number as an attribute has it. */
export function int64(number) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(number));
  return bytes.latin1Slice();
}

function word(number) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(number);
  return bytes.latin1Slice();
}

/** A count, the sizes of all names and values, then each with a NUL behind. */
export function serialize(pairs) {
  const sizes = pairs.map(([name, value]) => word(name.length) + word(value.length));
  const texts = pairs.map(([name, value]) => `${name}\0${value}\0`);
  return word(pairs.length) + sizes.join("") + texts.join("");
}

export function deserialize(text) {
  if (text === "") return [];
  const bytes = Buffer.from(text, "latin1");
  const pairs = [];
  let at = 4 + 8 * bytes.readUInt32LE(0);
  const take = (size) => {
    if (at + size >= bytes.length) throw new Error("header map: a size leads beyond its end");
    at += size + 1;
    return bytes.latin1Slice(at - size - 1, at - 1);
  };
  for (let place = 0; place < bytes.readUInt32LE(0); place += 1) {
    const [name, value] = [0, 4].map((offset) => bytes.readUInt32LE(4 + 8 * place + offset));
    pairs.push([take(name), take(value)]);
  }
  return pairs;
}
