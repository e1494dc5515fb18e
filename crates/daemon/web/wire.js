// Protobuf and gRPC-Web over `fetch`, by the API's own definitions: the service sends them as `/web/api.bin`, so there
// is no table of field numbers here that could disagree with it.
//
// Messages are plain objects with the field names of the definitions. Enums are the names of their values without the
// prefix ("RUNNING"), bytes are `Uint8Array`, 64-bit integers are numbers (a `BigInt` where a number cannot hold them).
// A field without presence always has a value; one with presence is left out where it is not set.

const text = new TextDecoder();
const utf8 = new TextEncoder();

/** Reads fields of an encoded message. */
export class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  get done() {
    return this.at >= this.bytes.length;
  }

  varint() {
    let low = 0;
    for (let shift = 0; shift < 28; shift += 7) {
      const byte = this.bytes[this.at++];
      low += (byte & 127) * 2 ** shift;
      if (byte < 128) return low;
    }
    let big = BigInt(low);
    for (let shift = 28n; shift < 70n; shift += 7n) {
      const byte = this.bytes[this.at++];
      if (byte === undefined) throw new Error("the message is cut");
      big |= BigInt(byte & 127) << shift;
      if (byte < 128) return big <= Number.MAX_SAFE_INTEGER ? Number(big) : BigInt.asUintN(64, big);
    }
    throw new Error("a number is too long");
  }

  chunk() {
    const length = this.varint();
    const end = this.at + length;
    if (end > this.bytes.length) throw new Error("the message is cut");
    const part = this.bytes.subarray(this.at, end);
    this.at = end;
    return part;
  }

  double() {
    const value = this.view.getFloat64(this.at, true);
    this.at += 8;
    return value;
  }

  float() {
    const value = this.view.getFloat32(this.at, true);
    this.at += 4;
    return value;
  }

  skip(wire) {
    if (wire === 0) this.varint();
    else if (wire === 1) this.at += 8;
    else if (wire === 2) this.chunk();
    else if (wire === 5) this.at += 4;
    else throw new Error(`wire type ${wire} is not one of protobuf's`);
  }
}

class Writer {
  constructor() {
    this.bytes = [];
  }

  varint(value) {
    let rest = BigInt.asUintN(64, BigInt(value));
    while (rest > 127n) {
      this.bytes.push(Number(rest & 127n) | 128);
      rest >>= 7n;
    }
    this.bytes.push(Number(rest));
  }

  chunk(part) {
    this.varint(part.length);
    for (const byte of part) this.bytes.push(byte);
  }

  fixed(size, put) {
    const view = new DataView(new ArrayBuffer(size));
    put(view);
    for (let i = 0; i < size; i++) this.bytes.push(view.getUint8(i));
  }
}

/** Every field of `bytes` as [number, wire type, reader at its value]. */
function* fieldsOf(bytes) {
  const reader = new Reader(bytes);
  while (!reader.done) {
    const tag = reader.varint();
    yield [Math.floor(tag / 8), tag % 8, reader];
  }
}

// The few messages of descriptor.proto that tell what the others look like.
function collect(bytes, wanted) {
  const found = {};
  for (const [number, wire, reader] of fieldsOf(bytes)) {
    const [name, kind] = wanted[number] ?? [];
    if (!name) {
      reader.skip(wire);
      continue;
    }
    const value = kind === "text" ? text.decode(reader.chunk()) : kind === "number" ? reader.varint() : reader.chunk();
    if (kind === "many") (found[name] ??= []).push(value);
    else found[name] = value;
  }
  return found;
}

const FILE = { 2: ["package", "text"], 4: ["messages", "many"], 5: ["enums", "many"], 6: ["services", "many"] };
const MESSAGE = { 1: ["name", "text"], 2: ["fields", "many"], 3: ["nested", "many"], 4: ["enums", "many"] };
const FIELD = {
  1: ["name", "text"], 3: ["number", "number"], 4: ["label", "number"], 5: ["type", "number"], 6: ["typeName", "text"],
  9: ["oneof", "number"], 17: ["optional", "number"],
};
const ENUM = { 1: ["name", "text"], 2: ["values", "many"] };
const ENUM_VALUE = { 1: ["name", "text"], 2: ["number", "number"] };
const SERVICE = { 1: ["name", "text"], 2: ["methods", "many"] };
const METHOD = { 1: ["name", "text"], 2: ["input", "text"], 3: ["output", "text"] };

const T = { DOUBLE: 1, FLOAT: 2, INT64: 3, UINT64: 4, INT32: 5, FIXED64: 6, BOOL: 8, STRING: 9, MESSAGE: 11, BYTES: 12, UINT32: 13, ENUM: 14 };
const WIRE = { [T.DOUBLE]: 1, [T.FLOAT]: 5, [T.STRING]: 2, [T.MESSAGE]: 2, [T.BYTES]: 2 };

/** The definitions: encodes and decodes every message of the API. */
export class Definitions {
  constructor(bytes) {
    this.messages = new Map();
    this.enums = new Map();
    this.methods = new Map();
    for (const [number, wire, reader] of fieldsOf(bytes)) {
      if (number === 1) this.addFile(collect(reader.chunk(), FILE));
      else reader.skip(wire);
    }
  }

  addFile(file) {
    const scope = file.package ? `.${file.package}` : "";
    for (const message of file.messages ?? []) this.addMessage(scope, collect(message, MESSAGE));
    for (const one of file.enums ?? []) this.addEnum(scope, collect(one, ENUM));
    for (const bytes of file.services ?? []) {
      const service = collect(bytes, SERVICE);
      for (const part of service.methods ?? []) {
        const method = collect(part, METHOD);
        this.methods.set(`${scope.slice(1)}.${service.name}/${method.name}`, method);
      }
    }
  }

  addMessage(scope, message) {
    const name = `${scope}.${message.name}`;
    const fields = (message.fields ?? []).map((bytes) => collect(bytes, FIELD));
    for (const field of fields) {
      field.repeated = field.label === 3;
      field.presence = field.type === T.MESSAGE || field.oneof !== undefined || field.optional === 1;
      field.wire = WIRE[field.type] ?? 0;
    }
    this.messages.set(name, { fields, byNumber: new Map(fields.map((f) => [f.number, f])), byName: new Map(fields.map((f) => [f.name, f])) });
    for (const nested of message.nested ?? []) this.addMessage(name, collect(nested, MESSAGE));
    for (const one of message.enums ?? []) this.addEnum(name, collect(one, ENUM));
  }

  addEnum(scope, told) {
    const values = told.values.map((bytes) => ({ number: 0, ...collect(bytes, ENUM_VALUE) }));
    const zero = values.find((value) => value.number === 0);
    const prefix = zero?.name.endsWith("UNSPECIFIED") ? zero.name.slice(0, -"UNSPECIFIED".length) : "";
    const named = values.map((value) => [value.number, value.name.slice(prefix.length)]);
    this.enums.set(`${scope}.${told.name}`, { names: new Map(named), numbers: new Map(named.map(([n, name]) => [name, n])) });
  }

  /** Names of the values of an enum, without UNSPECIFIED. */
  names(name) {
    return [...this.enums.get(name).numbers.keys()].filter((value) => value !== "UNSPECIFIED");
  }

  decode(name, bytes) {
    const type = this.messages.get(name);
    const message = {};
    for (const field of type.fields) {
      if (field.repeated) message[field.name] = [];
      else if (!field.presence) message[field.name] = this.zero(field);
    }
    for (const [number, wire, reader] of fieldsOf(bytes)) {
      const field = type.byNumber.get(number);
      if (!field) reader.skip(wire);
      else if (field.repeated && wire === 2 && field.wire !== 2) {
        const packed = new Reader(reader.chunk());
        while (!packed.done) message[field.name].push(this.value(field, packed));
      } else if (field.repeated) message[field.name].push(this.value(field, reader));
      else message[field.name] = this.value(field, reader);
    }
    return message;
  }

  zero(field) {
    if (field.type === T.STRING) return "";
    if (field.type === T.BYTES) return new Uint8Array(0);
    if (field.type === T.BOOL) return false;
    if (field.type === T.ENUM) return "UNSPECIFIED";
    return 0;
  }

  value(field, reader) {
    switch (field.type) {
      case T.DOUBLE: return reader.double();
      case T.FLOAT: return reader.float();
      case T.STRING: return text.decode(reader.chunk());
      case T.BYTES: return reader.chunk();
      case T.MESSAGE: return this.decode(field.typeName, reader.chunk());
      case T.BOOL: return reader.varint() !== 0;
      case T.ENUM: {
        const number = reader.varint();
        return this.enums.get(field.typeName).names.get(number) ?? String(number);
      }
      case T.INT32: case T.INT64: return Number(BigInt.asIntN(64, BigInt(reader.varint())));
      default: return reader.varint();
    }
  }

  encode(name, message) {
    const type = this.messages.get(name);
    const writer = new Writer();
    for (const [key, value] of Object.entries(message)) {
      const field = type.byName.get(key);
      if (!field) throw new Error(`${name} has no field ${key}`);
      if (value === undefined || value === null) continue;
      for (const one of field.repeated ? value : [value]) this.put(field, one, writer);
    }
    return Uint8Array.from(writer.bytes);
  }

  put(field, value, writer) {
    writer.varint(field.number * 8 + field.wire);
    switch (field.type) {
      case T.DOUBLE: return writer.fixed(8, (view) => view.setFloat64(0, value, true));
      case T.FLOAT: return writer.fixed(4, (view) => view.setFloat32(0, value, true));
      case T.STRING: return writer.chunk(utf8.encode(value));
      case T.BYTES: return writer.chunk(value);
      case T.MESSAGE: return writer.chunk(this.encode(field.typeName, value));
      case T.BOOL: return writer.varint(value ? 1 : 0);
      case T.ENUM: return writer.varint(this.enums.get(field.typeName).numbers.get(value) ?? 0);
      default: return writer.varint(typeof value === "bigint" ? value : Math.round(value));
    }
  }
}

/** A refused call, or a service that does not answer (reason "UNREACHABLE"). */
export class Refusal extends Error {
  constructor(message, reason, metadata = {}) {
    super(message);
    this.reason = reason;
    this.metadata = metadata;
    this.field = metadata.field ?? "";
    this.value = metadata.value ?? "";
    this.allowed = metadata.allowed ?? "";
  }
}

const UNAVAILABLE = 14;

/** The refusal that the trailers of a call tell; `null`: it was answered. */
function refusalOf(trailers) {
  const code = Number(trailers["grpc-status"] ?? UNAVAILABLE);
  if (code === 0) return null;
  const message = decodeURIComponent(trailers["grpc-message"] ?? "the service ended the call");
  let reason = code === UNAVAILABLE ? "UNREACHABLE" : `CODE_${code}`;
  let metadata = {};
  if (trailers["grpc-status-details-bin"]) {
    const raw = atob(trailers["grpc-status-details-bin"].replace(/=+$/, ""));
    const status = collect(Uint8Array.from(raw, (c) => c.charCodeAt(0)), { 3: ["details", "many"] });
    for (const detail of status.details ?? []) {
      const any = collect(detail, { 1: ["url", "text"], 2: ["value", "bytes"] });
      if (!any.url?.endsWith("google.rpc.ErrorInfo")) continue;
      const info = collect(any.value, { 1: ["reason", "text"], 3: ["metadata", "many"] });
      reason = info.reason;
      const pairs = (info.metadata ?? []).map((pair) => collect(pair, { 1: ["key", "text"], 2: ["value", "text"] }));
      metadata = Object.fromEntries(pairs.map(({ key, value }) => [key, value ?? ""]));
    }
  }
  return new Refusal(message, reason, metadata);
}

const unreachable = (error) => new Refusal(`the service does not answer: ${error.message}`, "UNREACHABLE");

/** The service that sent this page. `token`: what says who calls, where the transport does not. */
export class Service {
  constructor(definitions, token = () => "") {
    this.definitions = definitions;
    this.token = token;
  }

  static async load(token) {
    const answer = await fetch("/web/api.bin");
    return new Service(new Definitions(new Uint8Array(await answer.arrayBuffer())), token);
  }

  /** One call, one answer. */
  async call(method, request = {}, signal = undefined) {
    let last;
    for await (const answer of this.stream(method, request, signal)) last = answer;
    if (!last) throw new Refusal("the service sent no answer", "UNREACHABLE");
    return last;
  }

  /** The answers of a call as they come. */
  async *stream(method, request = {}, signal = undefined) {
    const path = `beamwright.v1.${method}`;
    const { input, output } = this.definitions.methods.get(path);
    const message = this.definitions.encode(input, request);
    const body = new Uint8Array(5 + message.length);
    new DataView(body.buffer).setUint32(1, message.length);
    body.set(message, 5);
    const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" };
    if (this.token()) headers.authorization = `Bearer ${this.token()}`;
    let response;
    try {
      response = await fetch(`/${path}`, { method: "POST", headers, body, signal });
    } catch (error) {
      throw unreachable(error);
    }
    if (response.headers.get("grpc-status")) {
      const refusal = refusalOf(Object.fromEntries(response.headers));
      if (refusal) throw refusal;
    } else if (!response.ok) {
      throw new Refusal(`the service answered ${response.status}`, "UNREACHABLE");
    }
    for await (const [flag, bytes] of framesOf(response.body)) {
      if (flag & 128) {
        const lines = text.decode(bytes).split("\r\n").filter(Boolean).map((line) => line.split(/:(.*)/s));
        const refusal = refusalOf(Object.fromEntries(lines.map(([key, value]) => [key.trim().toLowerCase(), value.trim()])));
        if (refusal) throw refusal;
        return;
      }
      yield this.definitions.decode(output, bytes);
    }
    throw new Refusal("the service ended the call without a word", "UNREACHABLE");
  }

  /** A file that the service offers. */
  async file(path) {
    const headers = this.token() ? { authorization: `Bearer ${this.token()}` } : {};
    const response = await fetch(`/${path}`, { headers }).catch((error) => {
      throw unreachable(error);
    });
    if (!response.ok) throw new Refusal((await response.text()).trim(), response.status === 401 ? "UNAUTHENTICATED" : "FAILED");
    return response.blob();
  }
}

/** Frames of a body: flag and content. */
export async function* framesOf(body) {
  const reader = body.getReader();
  let parts = [];
  let held = 0;
  const take = (length) => {
    const whole = new Uint8Array(length);
    let at = 0;
    while (at < length) {
      const part = parts[0];
      const n = Math.min(part.length, length - at);
      whole.set(part.subarray(0, n), at);
      at += n;
      if (n === part.length) parts.shift();
      else parts[0] = part.subarray(n);
    }
    held -= length;
    return whole;
  };
  try {
    let head = null;
    for (;;) {
      while (head ? held >= head.length : held >= 5) {
        if (head) {
          yield [head.flag, take(head.length)];
          head = null;
        } else {
          const bytes = take(5);
          head = { flag: bytes[0], length: new DataView(bytes.buffer).getUint32(1) };
        }
      }
      let read;
      try {
        read = await reader.read();
      } catch (error) {
        throw unreachable(error);
      }
      if (read.done) return;
      parts.push(read.value);
      held += read.value.length;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
