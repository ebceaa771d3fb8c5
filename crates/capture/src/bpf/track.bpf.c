// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Marks every block of the tracked disks that a request changes. The protocol with user space, and why no
// change is lost, is told in `src/ebpf.rs`; the numbers shared with it are in `src/ebpf/object.rs`.
//
// Decides by `cmd_flags`, never by the letters that trace events print: discards, write-zeroes and erasures
// change a disk as much as writes do. Works from kernel 5.17 (bpf_loop, request_queue.disk) on; the
// structures below name only what is read, and libbpf relocates every access to the running kernel (CO-RE).

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// include/uapi/linux/bpf.h
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_ARRAY_OF_MAPS 12
#define BPF_F_MMAPABLE (1U << 10)
#define BPF_F_INNER_MAP (1U << 12)

// include/linux/blk_types.h: the low 8 bits of cmd_flags are the operation; the odd ones transfer data to
// the device or change it. From DRV_IN (34) on they are pass-through, and what they do is in the payload.
#define REQ_OP_MASK 0xff
#define REQ_OP_DISCARD 3
#define REQ_OP_WRITE_ZEROES 9
#define REQ_OP_DRV_FIRST 32

#define SECTOR_SHIFT 9
#define BLOCK_SHIFT 12
#define DISKS_MAX 64
// More segments than any driver's max_discard_segments (NVMe: 256).
#define BIOS_MAX 4096

#define CORE __attribute__((preserve_access_index))

struct gendisk {
    int major;
    int first_minor;
} CORE;

struct request_queue {
    struct gendisk *disk;
} CORE;

struct bvec_iter {
    __u64 bi_sector;
    __u32 bi_size;
} CORE;

struct bio {
    struct bio *bi_next;
    struct bvec_iter bi_iter;
} CORE;

struct request {
    struct request_queue *q;
    __u32 cmd_flags;
    __u32 __data_len;
    __u64 __sector;
    struct bio *bio;
} CORE;

// The device number as the kernel has it in gendisk.
struct device_number {
    __u32 major;
    __u32 minor;
};

// device → slot
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, DISKS_MAX);
    __type(key, struct device_number);
    __type(value, __u32);
} disks SEC(".maps");

// One bit per block, 64 to a word. INNER_MAP: each disk's has its own number of words.
struct bitmap {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
    __uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
};

// slot * 2 + phase → bitmap
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, DISKS_MAX * 2);
    __type(key, __u32);
    __array(values, struct bitmap);
} bitmaps SEC(".maps");

// Which of its two bitmaps every disk marks in: 0 or 1. Written by user space only.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
    __uint(map_flags, BPF_F_MMAPABLE);
} phase SEC(".maps");

struct counts {
    __u64 issued;      // requests of any kind seen at issue
    __u64 completed;   // the same at completion
    __u64 marked;      // requests that marked blocks
    __u64 untrackable; // requests that changed the disk nobody knows where
};

// slot → counts, summed over the processors by user space
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, DISKS_MAX);
    __type(key, __u32);
    __type(value, struct counts);
} counters SEC(".maps");

// Blocks first to last of one bitmap. The loops' callbacks change nothing in it: a number that grows from one
// round to the next would keep the verifier from seeing that one round is like the other.
struct span {
    void *bits;
    struct counts *counts;
    __u64 first;
    __u64 last;
};

static long mark_word(__u32 index, struct span *span)
{
    __u64 word = (span->first >> 6) + index, low = word << 6, high = low + 63, mask = ~0ULL;
    if (span->first > low)
        mask &= ~0ULL << (span->first & 63);
    if (span->last < high)
        mask &= ~0ULL >> (63 - (span->last & 63));
    __u32 key = (__u32)word;
    __u64 *value = key == word ? bpf_map_lookup_elem(span->bits, &key) : 0;
    if (!value) {
        // Beyond the end of the bitmap: the disk has grown.
        __sync_fetch_and_add(&span->counts->untrackable, 1);
        return 1;
    }
    __sync_fetch_and_or(value, mask);
    return 0;
}

// Marks what the bytes from `sector` on touch.
static __always_inline void mark(void *bits, struct counts *counts, __u64 sector, __u32 bytes)
{
    __u64 sectors = ((__u64)bytes + (1 << SECTOR_SHIFT) - 1) >> SECTOR_SHIFT;
    struct span span = {
        .bits = bits,
        .counts = counts,
        .first = sector >> (BLOCK_SHIFT - SECTOR_SHIFT),
        .last = (sector + sectors - 1) >> (BLOCK_SHIFT - SECTOR_SHIFT),
    };
    bpf_loop((span.last >> 6) - (span.first >> 6) + 1, mark_word, &span, 0);
}

// The bios of a discard, which need not be adjacent (max_discard_segments > 1).
struct chain {
    void *bits;
    struct counts *counts;
    __u64 bio; // as a number: read by probe, so that every kernel's verifier takes the walk
};

static long mark_bio(__u32 index, struct chain *chain)
{
    struct bio *bio = (struct bio *)chain->bio;
    if (!bio)
        return 1;
    __u32 bytes = BPF_CORE_READ(bio, bi_iter.bi_size);
    if (bytes)
        mark(chain->bits, chain->counts, BPF_CORE_READ(bio, bi_iter.bi_sector), bytes);
    chain->bio = (__u64)BPF_CORE_READ(bio, bi_next);
    return 0;
}

static __always_inline void mark_discard(void *bits, struct counts *counts, struct request *rq)
{
    struct chain chain = {.bits = bits, .counts = counts, .bio = (__u64)BPF_CORE_READ(rq, bio)};
    bpf_loop(BIOS_MAX, mark_bio, &chain, 0);
    if (chain.bio)
        __sync_fetch_and_add(&counts->untrackable, 1);
}

static __always_inline int track(struct request *rq, __u32 bytes, int issue)
{
    struct gendisk *disk = rq->q->disk;
    if (!disk)
        return 0;
    struct device_number device = {.major = disk->major, .minor = disk->first_minor};
    __u32 *slot = bpf_map_lookup_elem(&disks, &device);
    if (!slot)
        return 0;
    struct counts *counts = bpf_map_lookup_elem(&counters, slot);
    if (!counts)
        return 0;
    __sync_fetch_and_add(issue ? &counts->issued : &counts->completed, 1);

    __u32 op = rq->cmd_flags & REQ_OP_MASK, zero = 0;
    if (!(op & 1))
        return 0;
    if (op >= REQ_OP_DRV_FIRST || (!bytes && op > REQ_OP_WRITE_ZEROES)) {
        // Pass-through, or a zone operation, which has no length. A write without data is a flush.
        if (issue)
            __sync_fetch_and_add(&counts->untrackable, 1);
        return 0;
    }
    if (!bytes)
        return 0;

    __u64 *now = bpf_map_lookup_elem(&phase, &zero);
    if (!now)
        return 0;
    __u32 index = *slot * 2 + (*now & 1);
    void *bits = bpf_map_lookup_elem(&bitmaps, &index);
    if (!bits) {
        __sync_fetch_and_add(&counts->untrackable, 1);
        return 0;
    }
    // Zone appends name the zone's start at issue and the real place at completion: one bit too many.
    if (op == REQ_OP_DISCARD && rq->bio)
        mark_discard(bits, counts, rq);
    else
        mark(bits, counts, rq->__sector, bytes);
    __sync_fetch_and_add(&counts->marked, 1);
    return 0;
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(issue, struct request *rq)
{
    return track(rq, rq->__data_len, 1);
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(complete, struct request *rq, __u8 error, unsigned int nr_bytes)
{
    return track(rq, nr_bytes, 0);
}
