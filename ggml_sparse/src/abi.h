#pragma once

// The part of ggml's backend interface that a plug-in implements. ggml hands these tables
// to backends through a header that it does not install, so we state what we fill in:
// slot order and types as of interface version 2 (ggml 0.25.3). library.cpp refuses a host
// of any other version, and the self-test proves the layout before a model is believed.

#include "ggml-backend.h"

namespace ggml_sparse::abi {

constexpr int          interface_version = 2;
constexpr const char * host_version      = "0.25.3";

// Slots that we leave empty; a null slot means ggml's default.
using unused = void (*)();

} // namespace ggml_sparse::abi

extern "C" {

struct ggml_sparse_buffer_type_slots {
    const char * (*name)(ggml_backend_buffer_type_t);
    ggml_backend_buffer_t (*alloc)(ggml_backend_buffer_type_t, size_t size);
    size_t (*alignment)(ggml_backend_buffer_type_t);
    ggml_sparse::abi::unused max_size, alloc_size;
    bool (*is_host)(ggml_backend_buffer_type_t);
};

struct ggml_backend_buffer_type {
    ggml_sparse_buffer_type_slots slots;
    ggml_backend_dev_t            device;
    void *                        context;
};

struct ggml_sparse_buffer_slots {
    void (*free)(ggml_backend_buffer_t);
    void * (*base)(ggml_backend_buffer_t);
    enum ggml_status (*init_tensor)(ggml_backend_buffer_t, struct ggml_tensor *);
    void (*fill)(ggml_backend_buffer_t, struct ggml_tensor *, uint8_t value, size_t offset, size_t size);
    void (*set)(ggml_backend_buffer_t, struct ggml_tensor *, const void * data, size_t offset, size_t size);
    void (*get)(ggml_backend_buffer_t, const struct ggml_tensor *, void * data, size_t offset, size_t size);
    ggml_sparse::abi::unused set_2d, get_2d, copy;
    void (*clear)(ggml_backend_buffer_t, uint8_t value);
    ggml_sparse::abi::unused reset;
};

// Exported by libggml-base, declared in the header that is not installed.
GGML_API ggml_backend_buffer_t ggml_backend_buffer_init(ggml_backend_buffer_type_t type, struct ggml_sparse_buffer_slots slots,
                                                        void * context, size_t size);

// The head of ggml's buffer: all that we read back from one.
struct ggml_backend_buffer {
    ggml_sparse_buffer_slots       slots;
    ggml_backend_buffer_type_t     type;
    void *                         context;
    size_t                         size;
    enum ggml_backend_buffer_usage usage;
};

struct ggml_sparse_backend_slots {
    const char * (*name)(ggml_backend_t);
    void (*free)(ggml_backend_t);
    ggml_sparse::abi::unused set_async, get_async, set_2d_async, get_2d_async, copy_async, synchronize;
    ggml_sparse::abi::unused plan_create, plan_free, plan_update, plan_compute;
    enum ggml_status (*compute)(ggml_backend_t, struct ggml_cgraph *);
    ggml_sparse::abi::unused event_record, event_wait, optimize;
};

struct ggml_backend {
    ggml_guid_t               guid;
    ggml_sparse_backend_slots slots;
    ggml_backend_dev_t        device;
    void *                    context;
};

struct ggml_sparse_device_slots {
    const char * (*name)(ggml_backend_dev_t);
    const char * (*description)(ggml_backend_dev_t);
    void (*memory)(ggml_backend_dev_t, size_t * free, size_t * total);
    enum ggml_backend_dev_type (*type)(ggml_backend_dev_t);
    void (*props)(ggml_backend_dev_t, struct ggml_backend_dev_props *);
    ggml_backend_t (*init_backend)(ggml_backend_dev_t, const char * params);
    ggml_backend_buffer_type_t (*buffer_type)(ggml_backend_dev_t);
    ggml_sparse::abi::unused host_buffer_type, buffer_from_pointer;
    bool (*supports_op)(ggml_backend_dev_t, const struct ggml_tensor * op);
    bool (*supports_buffer_type)(ggml_backend_dev_t, ggml_backend_buffer_type_t);
    ggml_sparse::abi::unused offload_op, event_new, event_free, event_synchronize;
};

struct ggml_backend_device {
    ggml_sparse_device_slots slots;
    ggml_backend_reg_t       reg;
    void *                   context;
};

struct ggml_sparse_reg_slots {
    const char * (*name)(ggml_backend_reg_t);
    size_t (*device_count)(ggml_backend_reg_t);
    ggml_backend_dev_t (*device)(ggml_backend_reg_t, size_t index);
    void * (*proc_address)(ggml_backend_reg_t, const char * name);
};

struct ggml_backend_reg {
    int                   api_version;
    ggml_sparse_reg_slots slots;
    void *                context;
};

} // extern "C"
