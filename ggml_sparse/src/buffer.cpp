#include "buffer.h"

#include "backend.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <list>
#include <new>
#include <sys/mman.h>

namespace ggml_sparse {

namespace {

constexpr size_t k_alignment = 64;

struct reservation { // context of a buffer
    const model_spec &    spec;
    void *                base;
    size_t                size;
    std::list<ffn_weight> weights;
};

reservation & reservation_of(ggml_backend_buffer_t buffer) { return *static_cast<reservation *>(buffer->context); }

void buffer_free(ggml_backend_buffer_t buffer) {
    reservation & r = reservation_of(buffer);
    munmap(r.base, r.size);
    delete &r;
}

void * buffer_base(ggml_backend_buffer_t buffer) { return reservation_of(buffer).base; }

// "blk.3.ffn_up_exps.weight" -> layer 3, up
bool parse_name(const char * name, ffn_weight & w) {
    char role[16] = "";
    if (std::sscanf(name, "blk.%d.ffn_%15[a-z]", &w.il, role) != 2) {
        return false;
    }
    static const char * const roles[] = {"gate", "up", "down"};
    const auto it = std::find_if(std::begin(roles), std::end(roles), [&](const char * r) { return std::strcmp(r, role) == 0; });
    w.role        = ffn_role(it - std::begin(roles));
    return it != std::end(roles);
}

ggml_status buffer_init_tensor(ggml_backend_buffer_t buffer, ggml_tensor * t) {
    reservation & r = reservation_of(buffer);
    ffn_weight    w{&r.spec, 0, ffn_role::gate};
    if (t->view_src || !parse_name(t->name, w) || w.il < 0 || w.il >= r.spec.info.n_layer) {
        return GGML_STATUS_FAILED;
    }
    t->extra = &r.weights.emplace_back(w);
    return GGML_STATUS_SUCCESS;
}

// Loading "writes" every tensor: the store already has it.
void buffer_fill(ggml_backend_buffer_t, ggml_tensor *, uint8_t, size_t, size_t) {}
void buffer_set(ggml_backend_buffer_t, ggml_tensor *, const void *, size_t, size_t) {}
void buffer_clear(ggml_backend_buffer_t, uint8_t) {}

// Nobody should read the placeholder; zeros are better than a fault.
void buffer_get(ggml_backend_buffer_t, const ggml_tensor *, void * data, size_t, size_t size) { std::memset(data, 0, size); }

ggml_backend_buffer_t type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    const size_t n    = std::max(size, k_alignment);
    void *       base = mmap(nullptr, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return nullptr;
    }
    auto * r = new (std::nothrow) reservation{*static_cast<const model_spec *>(type->context), base, n, {}};
    if (!r) {
        munmap(base, n);
        return nullptr;
    }
    ggml_sparse_buffer_slots slots{};
    slots.free        = buffer_free;
    slots.base        = buffer_base;
    slots.init_tensor = buffer_init_tensor;
    slots.fill        = buffer_fill;
    slots.set         = buffer_set;
    slots.get         = buffer_get;
    slots.clear       = buffer_clear;
    return ggml_backend_buffer_init(type, slots, r, size);
}

const char * type_name(ggml_backend_buffer_type_t) { return "SPARSE_FFN"; }
size_t       type_alignment(ggml_backend_buffer_type_t) { return k_alignment; }
bool         type_is_host(ggml_backend_buffer_type_t) { return false; }

} // namespace

ffn_buffer_type::ffn_buffer_type(const model_spec & spec) : type_{} {
    type_.slots.name      = type_name;
    type_.slots.alloc     = type_alloc;
    type_.slots.alignment = type_alignment;
    type_.slots.is_host   = type_is_host;
    type_.device          = backend_device();
    type_.context         = const_cast<model_spec *>(&spec);
}

bool is_ffn_buffer_type(ggml_backend_buffer_type_t type) { return type && type->slots.name == type_name; }

const ffn_weight * find_weight(const ggml_tensor * t) {
    const bool ours = t && t->buffer && is_ffn_buffer_type(ggml_backend_buffer_get_type(t->buffer));
    return ours ? static_cast<const ffn_weight *>(t->extra) : nullptr;
}

} // namespace ggml_sparse
