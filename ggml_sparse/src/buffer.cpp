#include "buffer.h"

#include "backend.h"
#include "packing.h"
#include "types.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <vector>

namespace ggml_sparse {

namespace {

constexpr size_t k_alignment = 64;

struct reservation { // context of a buffer
    weight_buffer_type & type;
    void *               base;
    size_t               size;
};

reservation & reservation_of(ggml_backend_buffer_t buffer) { return *static_cast<reservation *>(buffer->context); }

weight_buffer_type & type_of(ggml_backend_buffer_type_t type) { return *static_cast<weight_buffer_type *>(type->context); }

void buffer_free(ggml_backend_buffer_t buffer) {
    reservation & r = reservation_of(buffer);
    munmap(r.base, r.size);
    delete &r;
}

void * buffer_base(ggml_backend_buffer_t buffer) { return reservation_of(buffer).base; }

ggml_status buffer_init_tensor(ggml_backend_buffer_t buffer, ggml_tensor * t) {
    return !t->view_src && reservation_of(buffer).type.place(t) ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
}

// Loading "writes" every tensor: the file already has it.
void buffer_fill(ggml_backend_buffer_t, ggml_tensor *, uint8_t, size_t, size_t) {}
void buffer_set(ggml_backend_buffer_t, ggml_tensor *, const void *, size_t, size_t) {}
void buffer_clear(ggml_backend_buffer_t, uint8_t) {}

// Bytes `offset` .. of m's rows in ggml's layout.
void copy_rows(const ggml_sparse_matrix & m, uint8_t * data, size_t offset, size_t size) {
    const size_t row_size = ggml_row_size(ggml_type(m.type), m.n_col);
    if (m.layout == GGML_SPARSE_LAYOUT_ROWS) {
        std::memcpy(data, static_cast<const uint8_t *>(m.data) + offset, size);
        return;
    }
    const row_packing &  packing = *packing_find(m.type, m.layout, m.n_col);
    std::vector<uint8_t> row(row_size);
    for (size_t done = 0; done < size;) {
        const size_t i = (offset + done) / row_size, at = (offset + done) % row_size, n = std::min(size - done, row_size - at);
        packing.unpack(m.n_col, static_cast<const uint8_t *>(m.data) + i * row_size, row.data());
        std::memcpy(data + done, row.data() + at, n);
        done += n;
    }
}

// Nobody should read the placeholder of an FFN weight; zeros are better than a fault.
void buffer_get(ggml_backend_buffer_t buffer, const ggml_tensor * t, void * data, size_t offset, size_t size) {
    const weight_buffer_type & type = reservation_of(buffer).type;
    if (dynamic_cast<const ffn_buffer_type *>(&type)) {
        std::memset(data, 0, size);
    } else if (dynamic_cast<const rows_buffer_type *>(&type)) {
        copy_rows(*static_cast<const ggml_sparse_matrix *>(t->extra), static_cast<uint8_t *>(data), offset, size);
    } else {
        std::memcpy(data, static_cast<const char *>(t->data) + offset, size);
    }
}

ggml_backend_buffer_t type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    const size_t n    = std::max(size, k_alignment);
    void *       base = mmap(nullptr, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return nullptr;
    }
    auto * r = new (std::nothrow) reservation{type_of(type), base, n};
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

const char * type_name(ggml_backend_buffer_type_t type) { return type_of(type).name(); }

size_t type_alignment(ggml_backend_buffer_type_t) { return k_alignment; }

bool type_is_host(ggml_backend_buffer_type_t type) { return type_of(type).is_host(); }

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

} // namespace

weight_buffer_type::weight_buffer_type() : type_{} {
    type_.slots.name      = type_name;
    type_.slots.alloc     = type_alloc;
    type_.slots.alignment = type_alignment;
    type_.slots.is_host   = type_is_host;
    type_.device          = backend_device();
    type_.context         = this;
}

bool ffn_buffer_type::place(ggml_tensor * t) {
    ffn_weight w{&spec_, 0, ffn_role::gate};
    if (!parse_name(t->name, w) || w.il < 0 || w.il >= spec_.info.n_layer) {
        return false;
    }
    t->extra = &weights_.emplace_back(w);
    return true;
}

// ggml only reads weights; its tensors have no const data.
static bool point_into(const gguf_file & file, ggml_tensor * t) {
    const gguf_tensor_info * info = file.find_tensor(t->name);
    if (!info || info->type != t->type || info->nbytes != ggml_nbytes(t)) {
        return false;
    }
    t->data = const_cast<uint8_t *>(file.data(*info));
    return true;
}

bool mapped_buffer_type::place(ggml_tensor * t) { return point_into(file_, t); }

bool rows_buffer_type::place(ggml_tensor * t) {
    if (!point_into(file_, t)) {
        return false;
    }
    t->extra = &matrices_.emplace_back(ggml_sparse_matrix{t->type, t->ne[0], t->ne[1], t->data, GGML_SPARSE_LAYOUT_ROWS, 0});
    return true;
}

bool is_weight_buffer_type(ggml_backend_buffer_type_t type) { return type && type->slots.alloc == type_alloc; }

template <typename T> static bool is_in(const ggml_tensor * t) {
    const ggml_backend_buffer_type_t type = t && t->buffer ? ggml_backend_buffer_get_type(t->buffer) : nullptr;
    return is_weight_buffer_type(type) && dynamic_cast<T *>(&type_of(type)) != nullptr;
}

const ffn_weight * find_weight(const ggml_tensor * t) {
    return is_in<ffn_buffer_type>(t) ? static_cast<const ffn_weight *>(t->extra) : nullptr;
}

ggml_sparse_matrix find_matrix(const ggml_tensor * t) {
    if (is_in<rows_buffer_type>(t)) {
        return *static_cast<const ggml_sparse_matrix *>(t->extra);
    }
    const bool ours = is_in<mapped_buffer_type>(t) && weight_type_find(t->type);
    return ours ? ggml_sparse_matrix{t->type, t->ne[0], t->ne[1], t->data, GGML_SPARSE_LAYOUT_ROWS, 0}
                : ggml_sparse_matrix{-1, 0, 0, nullptr, GGML_SPARSE_LAYOUT_ROWS, 0};
}

} // namespace ggml_sparse
