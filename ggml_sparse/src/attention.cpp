#include "attention.h"

#include "carver.h"
#include "cpu/attention.h"
#include "ggml.h"
#include "row-split.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace ggml_sparse {

static constexpr int64_t  TILE_QUERIES     = 32; // that share a widened block, if a head's group is not larger
static constexpr int64_t  UNITS_PER_THREAD = 4;
static constexpr int64_t  STRIP_BYTES      = 128 << 10; // see attention::strip; with the one fetched meanwhile they fit any L2
static constexpr uint16_t MASKED           = 0xfc00;    // -inf in F16

static const attention_type * type_of(const attention_kernels & kernels, int32_t type) {
    switch (type) {
        case GGML_TYPE_F32: return &kernels.f32;
        case GGML_TYPE_F16: return &kernels.f16;
        case GGML_TYPE_Q8_0: return &kernels.q8_0;
        default: return nullptr;
    }
}

bool attention_type_supported(int32_t type) { return type_of(attention_kernels_get(GGML_SPARSE_ISA_GENERIC), type) != nullptr; }

namespace {

// Online softmax of some queries: [n], [n], [n][d_v].
struct running {
    float *max, *sum, *acc;

    static running carve(carver & space, int64_t n, int64_t d_v) {
        float * max = space.take<float>(size_t(n));
        float * sum = space.take<float>(size_t(n));
        return {max, sum, space.take<float>(size_t(n * d_v))};
    }
    void clear(int64_t n, int64_t d_v) const {
        std::fill(max, max + n, -INFINITY);
        std::fill(sum, sum + n, 0.0f);
        std::fill(acc, acc + n * d_v, 0.0f);
    }
};

// Tokens t0 .. t0 + n_token - 1 of a sequence with the heads of some KV heads. Queries are ordered
// [KV head][token][head of the group].
struct tile {
    int64_t sequence, t0, n_token, head0, n_head_kv;
};

struct span { // rows of the cache
    int64_t begin, end;
};

class attention {
  public:
    attention(const attention_work & work, const attention_kernels & kernels)
        : w(work), kernels(kernels), k_type(*type_of(kernels, w.type_k)), v_type(*type_of(kernels, w.type_v)),
          group(w.n_head / w.n_head_kv), tile_tokens(std::max<int64_t>(1, TILE_QUERIES / group)),
          n_tile((w.n_token + tile_tokens - 1) / tile_tokens), n_range((w.n_kv + ATTENTION_RANGE - 1) / ATTENTION_RANGE) {}

    void run(int n_threads, ffn_workspace & ws) {
        if (n_tile == 1) {
            run_ranges(n_threads, ws);
        } else {
            run_tiles(n_threads, ws);
        }
    }

  private:
    struct scratch { // of a thread
        float * k, *v, *q, *scores;
        running part, all;
    };

    const attention_work &    w;
    const attention_kernels & kernels;
    const attention_type &    k_type, &v_type;
    const int64_t             group, tile_tokens, n_tile, n_range;

    int64_t queries_per_head(const tile & t) const { return t.n_token * group; }
    int64_t queries(const tile & t) const { return t.n_head_kv * queries_per_head(t); }

    scratch carve(carver & space, int64_t n_q) const {
        scratch s;
        s.k      = space.take<float>(size_t(ATTENTION_ALIGN * w.d_k));
        s.v      = space.take<float>(size_t(ATTENTION_ALIGN * w.d_v));
        s.q      = space.take<float>(size_t(n_q * w.d_k));
        s.scores = space.take<float>(size_t(n_q * ATTENTION_BLOCK));
        s.part   = running::carve(space, n_q, w.d_v);
        s.all    = running::carve(space, n_q, w.d_v);
        return s;
    }

    size_t scratch_size(int64_t n_q) const {
        carver dry(nullptr);
        carve(dry, n_q);
        return dry.used();
    }

    static char * at(const attention_tensor & t, int64_t sequence, int64_t token, int64_t head) {
        return static_cast<char *>(t.data) + size_t(sequence) * t.sequence + size_t(token) * t.token + size_t(head) * t.head;
    }

    const uint16_t * mask(const tile & t, int64_t i_token) const {
        return reinterpret_cast<const uint16_t *>(at(w.mask, t.sequence, t.t0 + i_token, 0));
    }

    // The rows of [begin, end) that any token of the tile may see, begin rounded down to what kernels want.
    span visible(const tile & t, span rows) const {
        span seen{rows.end, rows.begin};
        for (int64_t i = 0; i < t.n_token; ++i) {
            const uint16_t * m = mask(t, i);
            span             s = rows;
            while (s.end > s.begin && m[s.end - 1] == MASKED) {
                --s.end;
            }
            while (s.begin < s.end && m[s.begin] == MASKED) {
                ++s.begin;
            }
            if (s.begin < s.end) {
                seen = {std::min(seen.begin, s.begin), std::max(seen.end, s.end)};
            }
        }
        return {seen.begin - (seen.begin - rows.begin) % ATTENTION_ALIGN, seen.end};
    }

    template <typename F> void each_query(const tile & t, F f) const { // f(index, token of the tile, head)
        for (int64_t i = 0; i < queries(t); ++i) {
            const int64_t head_kv = t.head0 + i / queries_per_head(t);
            f(i, i / group % t.n_token, head_kv * group + i % group);
        }
    }

    void load_queries(const tile & t, float * q) const {
        each_query(t, [&](int64_t i, int64_t token, int64_t head) {
            std::memcpy(q + i * w.d_k, at(w.q, t.sequence, t.t0 + token, head), size_t(w.d_k) * sizeof(float));
        });
    }

    void store(const tile & t, const running & all) const {
        each_query(t, [&](int64_t i, int64_t token, int64_t head) {
            auto *      out     = reinterpret_cast<float *>(at(w.out, t.sequence, t.t0 + token, head));
            const float inverse = all.sum[i] == 0 ? 0.0f : 1 / all.sum[i];
            for (int64_t c = 0; c < w.d_v; ++c) {
                out[c] = all.acc[i * w.d_v + c] * inverse;
            }
        });
    }

    static const uint8_t * row_of(const attention_tensor & x, const tile & t, int64_t row, int64_t i_head) {
        return reinterpret_cast<const uint8_t *>(at(x, t.sequence, row, t.head0 + i_head));
    }

    // Rows of K or of V that are read in one go, those of all KV heads of the tile: memory gives them in the order in which they lie.
    struct strip {
        const attention_tensor & x;
        int64_t                  begin;
        int                      n;
    };
    // Many small ones, should they be widened: F32 rows stay in L1.
    int64_t strip_rows(const tile & t, const attention_tensor & x, const attention_type & type) const {
        const int64_t n = STRIP_BYTES / std::max<int64_t>(1, int64_t(x.head) * t.n_head_kv) / ATTENTION_ALIGN * ATTENTION_ALIGN;
        return widens(type, queries_per_head(t)) ? ATTENTION_ALIGN : std::clamp<int64_t>(n, ATTENTION_ALIGN, ATTENTION_BLOCK);
    }
    static strip strip_at(const attention_tensor & x, span rows, int64_t at, int64_t n) {
        return {x, rows.begin + at, int(std::min(n, rows.end - rows.begin - at))};
    }

    // Head h's rows of a strip as the kernels take them, with its share of the strip that follows where that has no gaps.
    attention_rows rows_of(const tile & t, const strip & here, const strip & next, int64_t h) const {
        const uint8_t * rows   = row_of(here.x, t, here.begin, h);
        const bool      no_gap = next.x.token == next.x.head * size_t(t.n_head_kv);
        return {rows, here.x.token, no_gap ? row_of(next.x, t, next.begin, 0) + size_t(h * here.n) * next.x.head : rows};
    }

    // Calls f(head, rows, how many, where in the block) with all rows, strip by strip; `after` comes behind the last one.
    template <typename F>
    void each_strip(const tile & t, const attention_tensor & x, const attention_type & type, span rows, const strip & after, F && f) const {
        const int64_t n = strip_rows(t, x, type);
        for (int64_t r = 0; r < rows.end - rows.begin; r += n) {
            const strip here = strip_at(x, rows, r, n), next = strip_at(x, rows, r + n, n);
            for (int64_t h = 0; h < t.n_head_kv; ++h) {
                f(h, rows_of(t, here, next.n > 0 ? next : after, h), here.n, r);
            }
        }
    }

    static bool widens(const attention_type & type, int64_t n_q) { return !type.dots || n_q > ATTENTION_REUSE; }

    // `rows` as the kernels take them, widened where many queries or their type ask for it.
    const attention_type & prepare(const attention_type & type, attention_rows & rows, int n_row, int64_t d, int64_t n_q,
                                   float * wide) const {
        if (!widens(type, n_q)) {
            return type;
        }
        type.widen(rows, n_row, d, wide);
        const auto * data = reinterpret_cast<const uint8_t *>(wide);
        rows              = {data, size_t(d) * sizeof(float), data};
        return kernels.f32;
    }

    // All KV heads; `next` is the first row of the block that follows.
    void add_block(const tile & t, span rows, int64_t next, const scratch & s, const running & sums) const {
        const int64_t n_q = queries_per_head(t);
        each_strip(t, w.k, k_type, rows, strip_at(w.v, rows, 0, 1), [&](int64_t h, attention_rows k, int n, int64_t r) {
            const attention_type & reader = prepare(k_type, k, n, w.d_k, n_q, s.k);
            reader.dots(k, n, w.d_k, s.q + h * n_q * w.d_k, int(n_q), s.scores + h * n_q * ATTENTION_BLOCK + r);
        });
        for (int64_t i = 0; i < queries(t); ++i) {
            const uint16_t * m = mask(t, i / group % t.n_token) + rows.begin;
            const float      f =
                kernels.weigh(s.scores + i * ATTENTION_BLOCK, int(rows.end - rows.begin), m, w.scale, sums.max + i, sums.sum + i);
            if (f != 1) {
                kernels.scale(sums.acc + i * w.d_v, w.d_v, f);
            }
        }
        each_strip(t, w.v, v_type, rows, strip_at(w.k, {next, next + 1}, 0, 1), [&](int64_t h, attention_rows v, int n, int64_t r) {
            const attention_type & reader = prepare(v_type, v, n, w.d_v, n_q, s.v);
            reader.add(v, n, w.d_v, s.scores + h * n_q * ATTENTION_BLOCK + r, int(n_q), sums.acc + h * n_q * w.d_v);
        });
    }

    // s.q holds the tile's queries. False: its tokens see no row of the range, and sums are left alone.
    bool run_range(const tile & t, int64_t range, const scratch & s, const running & sums) const {
        bool any = false;
        for (int64_t r = range * ATTENTION_RANGE, end = std::min(w.n_kv, r + ATTENTION_RANGE); r < end; r += ATTENTION_BLOCK) {
            const span rows = visible(t, {r, std::min(end, r + ATTENTION_BLOCK)});
            if (rows.begin >= rows.end) {
                continue;
            }
            if (!any) {
                sums.clear(queries(t), w.d_v);
                any = true;
            }
            const int64_t next = std::min(rows.begin + ATTENTION_BLOCK, w.n_kv - (rows.end - rows.begin));
            add_block(t, rows, next, s, sums);
        }
        return any;
    }

    void join(const running & all, const running & part, int64_t n_q) const {
        for (int64_t i = 0; i < n_q; ++i) {
            kernels.merge(w.d_v, all.acc + i * w.d_v, all.max + i, all.sum + i, part.acc + i * w.d_v, part.max[i], part.sum[i]);
        }
    }

    // Many tokens: a thread takes a tile of one KV head through all ranges.
    void run_tiles(int n_threads, ffn_workspace & ws) {
        const int64_t n_q   = tile_tokens * group;
        const size_t  size  = scratch_size(n_q);
        char *        space = static_cast<char *>(ws.reserve(size * size_t(n_threads)));
#pragma omp parallel num_threads(n_threads)
        {
            carver        own(space + size * size_t(omp_get_thread_num()));
            const scratch s = carve(own, n_q);
#pragma omp for schedule(dynamic)
            for (int64_t i = w.n_sequence * n_tile * w.n_head_kv - 1; i >= 0; --i) { // the late tiles of a prompt are the long ones
                const int64_t t0 = i / w.n_head_kv % n_tile * tile_tokens;
                run_tile({i / w.n_head_kv / n_tile, t0, std::min(tile_tokens, w.n_token - t0), i % w.n_head_kv, 1}, s);
            }
        }
    }

    void run_tile(const tile & t, const scratch & s) const {
        load_queries(t, s.q);
        s.all.clear(queries(t), w.d_v);
        for (int64_t range = 0; range < n_range; ++range) {
            if (run_range(t, range, s, s.part)) {
                join(s.all, s.part, queries(t));
            }
        }
        store(t, s.all);
    }

    // What joining it with nothing gives, to the bit.
    void store_only_range(const tile & t, bool any, const running & part) const {
        if (!any) {
            part.clear(queries(t), w.d_v);
        }
        store(t, part);
    }

    // KV heads that a thread takes through a range together, as rows of all heads lie side by side: as many as leave
    // enough work for every thread.
    int64_t heads_at_once(int n_threads) const {
        int64_t n = w.n_head_kv;
        while (n > 1 && w.n_sequence * n_range * ((w.n_head_kv + n - 1) / n) < UNITS_PER_THREAD * n_threads) {
            n = (n + 1) / 2;
        }
        return n;
    }

    // Few tokens: a thread takes one range, and what the ranges give joins afterwards.
    void run_ranges(int n_threads, ffn_workspace & ws) {
        const int64_t n_at_once = heads_at_once(n_threads), n_part = (w.n_head_kv + n_at_once - 1) / n_at_once;
        const int64_t n_q = n_at_once * w.n_token * group, n_unit = w.n_sequence * n_part;
        carver        dry(nullptr);
        running::carve(dry, n_q, w.d_v);
        const size_t n_own = scratch_size(n_q), n_scratch = n_own * size_t(n_threads), n_slot = size_t(n_unit * n_range);
        char *       space = static_cast<char *>(ws.reserve(n_scratch + (dry.used() + 1) * n_slot));
        char *       seen  = space + n_scratch + dry.used() * n_slot; // [n_slot]: has it any row?

        const auto part_of = [&](int64_t slot) {
            carver place(space + n_scratch + dry.used() * size_t(slot));
            return running::carve(place, n_q, w.d_v);
        };
        const auto tile_of = [&](int64_t unit) {
            const int64_t head0 = unit % n_part * n_at_once;
            return tile{unit / n_part, 0, w.n_token, head0, std::min(n_at_once, w.n_head_kv - head0)};
        };
        row_split slots(n_unit * n_range, n_threads, 1); // a thread's ranges follow each other: it has fetched the next one's rows
#pragma omp parallel num_threads(n_threads)
        {
            carver        own(space + n_own * size_t(omp_get_thread_num()));
            const scratch s = carve(own, n_q);
            while (const row_split::rows slot = slots.take(omp_get_thread_num())) {
                const tile t = tile_of(slot.begin / n_range);
                load_queries(t, s.q);
                seen[slot.begin] = run_range(t, slot.begin % n_range, s, part_of(slot.begin));
                if (n_range == 1) {
                    store_only_range(t, seen[slot.begin], part_of(slot.begin));
                }
            }
            if (n_range > 1) {
#pragma omp barrier
#pragma omp for schedule(dynamic)
                for (int64_t unit = 0; unit < n_unit; ++unit) {
                    const tile t = tile_of(unit);
                    s.all.clear(queries(t), w.d_v);
                    for (int64_t slot = unit * n_range; slot < (unit + 1) * n_range; ++slot) {
                        if (seen[slot]) {
                            join(s.all, part_of(slot), queries(t));
                        }
                    }
                    store(t, s.all);
                }
            }
        }
    }
};

} // namespace

void attention_run(const attention_work & work, int n_threads, ggml_sparse_isa isa, ffn_workspace & ws) {
    attention(work, attention_kernels_get(isa)).run(n_threads, ws);
}

} // namespace ggml_sparse
