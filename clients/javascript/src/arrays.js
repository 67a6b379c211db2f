/** Typed arrays of the dtypes on the wire. A row is one step's values, flat, in C order. */

import { WireError } from "./errors.js";

const KINDS = {
  "|b1": [1, Uint8Array], // 0 or 1; packed by the layout
  "|u1": [1, Uint8Array],
  "|i1": [1, Int8Array],
  "<u2": [2, Uint16Array],
  "<i2": [2, Int16Array],
  "<u4": [4, Uint32Array],
  "<i4": [4, Int32Array],
  "<u8": [8, BigUint64Array],
  "<i8": [8, BigInt64Array],
  "<f2": [2, Float32Array], // half precision on the wire only
  "<f4": [4, Float32Array],
  "<f8": [8, Float64Array],
};

/** Return the number of elements of a leaf. */
export function sizeOf(leaf) {
  return leaf.shape.reduce((product, side) => product * side, 1);
}

/** Return the bytes of one element on the wire. */
export function bytesOf(leaf) {
  const kind = KINDS[leaf.dtype];
  if (!kind || leaf.shape.some((side) => !Number.isInteger(side) || side < 0)) {
    throw new WireError(`a leaf has dtype ${leaf.dtype} and shape ${leaf.shape}`);
  }
  return kind[0];
}

export function isFloat(leaf) {
  return leaf.dtype[1] === "f";
}

/** Return an array of `rows` times one leaf, filled with zeros. */
export function zeros(leaf, rows = 1) {
  bytesOf(leaf);
  return new KINDS[leaf.dtype][1](rows * sizeOf(leaf));
}

/** Copy numbers into an array at an index; whole numbers of 8 bytes become BigInt. */
export function assign(array, at, values) {
  const whole = array instanceof BigInt64Array || array instanceof BigUint64Array;
  if (typeof values === "number" || typeof values === "boolean" || typeof values === "bigint") {
    array[at] = whole ? BigInt(values) : Number(values);
    return;
  }
  for (let index = 0; index < values.length; index++) {
    array[at + index] = whole ? BigInt(values[index]) : Number(values[index]);
  }
}

/** Return the bytes of an array as the wire has them. */
export function toBytes(array, dtype) {
  if (dtype === "|b1") return packBits(array);
  if (dtype === "<f2") return toBytes(Uint16Array.from(array, toHalf), "<u2");
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Return an array from bytes of the wire; the bytes are copied. */
export function fromBytes(bytes, dtype, count) {
  if (dtype === "|b1") return unpackBits(bytes, count);
  if (dtype === "<f2") return Float32Array.from(fromBytes(bytes, "<u2", count), fromHalf);
  const [size, Kind] = KINDS[dtype];
  return new Kind(Uint8Array.prototype.slice.call(bytes, 0, count * size).buffer, 0, count);
}

/** Return booleans, eight to a byte, the first in the highest bit. */
export function packBits(array) {
  const bytes = new Uint8Array(Math.ceil(array.length / 8));
  for (let index = 0; index < array.length; index++) {
    if (array[index]) bytes[index >> 3] |= 128 >> (index & 7);
  }
  return bytes;
}

function unpackBits(bytes, count) {
  const array = new Uint8Array(count);
  for (let index = 0; index < count; index++) {
    array[index] = (bytes[index >> 3] >> (7 - (index & 7))) & 1;
  }
  return array;
}

const _float = new Float32Array(1);
const _bits = new Uint32Array(_float.buffer);

/** Return the bits of the nearest half-precision number, ties to even. */
export function toHalf(value) {
  _float[0] = value;
  const bits = _bits[0];
  const sign = (bits >>> 16) & 0x8000;
  const rest = bits & 0x7fffffff;
  if (rest >= 0x7f800000) return sign | (rest > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (rest >= 0x477ff000) return sign | 0x7c00; // rounds beyond 65504
  if (rest < 0x38800000) {
    // below the smallest normal number: a multiple of 2**-24
    return sign | roundEven(Math.abs(_float[0]) * 2 ** 24);
  }
  const odd = (rest >>> 13) & 1;
  return sign | ((rest - 0x38000000 + 0xfff + odd) >>> 13);
}

function roundEven(value) {
  const floor = Math.floor(value);
  const over = value - floor;
  return over > 0.5 || (over === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/** Return the number of the bits of a half. */
export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
