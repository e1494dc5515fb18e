//! The protocol of this version as one text, and its hash, which both sides compare in the hello.
//!
//! The text is written by hand, and whoever changes a message changes it too; a test pins the hash of each released version.

/// Every packet of version 1.0: `type name(fields in order of encoding)`. Control payloads are postcard; those marked `fixed` are
/// little-endian without padding.
pub const SCHEMA: &str = "\
BWP 1 COBS(header payload crc32c) 00; header type:u8 flags:u8 sequence:u32 session:u32 arming:u32 fixed\n\
01 Configure(watchdog_ticks:u32 park:(u16 u16) park_on:enum3 max_unblanked_ticks:u64 field_min:(u16 u16) field_max:(u16 u16) \
blanker_polarity:enum2 trigger:enum2 status_ticks:u32 block_samples:u16 block_ticks:u32)\n\
02 Arm(first_position:u64 dose_limit:u64 dose_weight:u32 max_unblanked_ticks:u64)\n\
03 Positions fixed(first:u64 xor5A(n*(x:u16 y:u16 settle:u32 dwell:u32 flags:u16)))\n\
04 PositionsUniform fixed(first:u64 settle:u32 dwell:u32 flags:u16 0:u16 xor5A(n*(x:u16 y:u16)))\n\
05 Barrier(id:u64)\n06 Park()\n07 Disarm()\n08 ClearTrip(id:u32)\n09 ExternalScan(is_on:bool)\n0A Bye()\n\
20 Hello(version_major:u8 version_minor:u8 schema_hash:u32)\n21 Heartbeat(seen:u64)\n22 Blank()\n23 Abort()\n24 Ping(token:u64)\n\
25 ReplaySamples(from_position:u64)\n26 SampleAck(next_position:u64)\n27 QueryStatus()\n\
80 HelloReply(version_major:u8 version_minor:u8 schema_hash:u32 capabilities:(tick_hz:u32 dac_bits:u8 \
detectors:16*(name:str16 bits:u8) queue_bytes:u32 return_samples:u32 dwell_ticks_min:u32 dwell_ticks_max:u32 \
settle_ticks_max:u32 blanker:(kind:enum3 opening_ticks:u32 closing_ticks:u32) has_external_scan_relay:bool cannot:u32 \
model:str32 serial:str32))\n\
81 Status(tick:u64 state:enum4(hold:enum2) configuration_crc:u32 arming:(u32 u32) next_sequence:u32 queue_bytes_consumed:u64 \
next_queued:u64 next_outcome:u64 return_limit:u64 unblanked_ticks:u64 dose:u64 is_beam_on:bool is_external_scan:bool \
trip:?(cause:enum9 id:u32 tick:u64) last_barrier:?u64 counters:(shortfalls:u32 longest_shortfall_ticks:u64 credit_holds:u32 \
crc_errors:u64 framing_errors:u64 duplicates:u32 out_of_order:u32 replays:u32 refusals:u32 dropped:u32))\n\
82 Ack(next_sequence:u32)\n83 Nak(next_sequence:u32)\n84 Error(sequence:u32 packet_type:u8 refusal:enum15)\n\
85 Samples fixed(first:u64 first_tick:u64 unblanked_settle:u64 unblanked_dwell:u64 queue_bytes_consumed:u64 n:u16 \
n_detectors:u8 0:u8 xor5A(n_detectors*n*u16))\n\
86 Gap(first_position:u64 n_positions:u64 cause:enum3(cause:enum9) tick:u64 unblanked_settle_ticks:u64 \
unblanked_dwell_ticks:u64)\n\
87 Pong(token:u64 tick:u64)\n88 Tripped(trip:(cause:enum9 id:u32 tick:u64) next_queued:u64)\n\
89 BarrierReached(id:u64 tick:u64)\n8A Blanked(tick:u64)\n";

/// FNV-1a of [`SCHEMA`].
pub const SCHEMA_HASH: u32 = fnv1a(SCHEMA.as_bytes());

const fn fnv1a(bytes: &[u8]) -> u32 {
    let mut hash = 0x811C_9DC5_u32;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}
