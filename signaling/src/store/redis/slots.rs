//! Partitions of rooms, their keys, and where Redis Cluster puts them.

/// So many that some hundred servers could share the rooms, and few enough to ask each.
pub(super) const PARTITIONS: usize = 128;
/// Of Redis Cluster.
const SLOTS: u16 = 16384;

/// Of a room's name, or another word. FNV-1a: the same in every process and version.
pub(super) fn partition(name: &str) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash % PARTITIONS as u64).unwrap_or(0)
}

/// The slot of every key with this partition's hash tag: the CRC of what is between the braces.
pub(super) fn slot(partition: usize) -> u16 {
    let crc = format!("p{partition}").bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

/// A key of a partition.
pub(super) fn key(partition: usize, name: &str) -> String {
    let mut key = String::with_capacity(name.len() + 16);
    push_key(&mut key, partition, name);
    key
}

/// The same, appended.
pub(super) fn push_key(text: &mut String, partition: usize, name: &str) {
    for part in ["rtc:{p", itoa::Buffer::new().format(partition), "}:", name] {
        text.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_that_redis_says() {
        // CLUSTER KEYSLOT {p0} and {p127}, of Redis 7.0
        assert_eq!((slot(0), slot(127)), (15882, 5539));
    }
}
