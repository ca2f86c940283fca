#include "backend.h"

#include "attention-node.h"
#include "block.h"
#include "cpu/kernels.h"
#include "dense.h"
#include "glue.h"
#include "lineage.h"
#include "rope.h"

#include <cstring>
#include <memory>
#include <string>

namespace ggml_sparse {

namespace {

// One per llama_context of the process. Only those of our own contexts have a session;
// in a guest's context no node is ever ours.
struct stream {
    int           n_threads = 1;
    ffn_session * session   = nullptr;
    ffn_block     block;
    ffn_workspace space; // of all but FFN blocks
    rope_table    turns;
};

stream & stream_of(ggml_backend_t backend) { return *static_cast<stream *>(backend->context); }

// --- stream --------------------------------------------------------------------

const char * stream_name(ggml_backend_t) { return "SPARSE"; }

void stream_free(ggml_backend_t backend) {
    delete &stream_of(backend);
    delete backend;
}

bool is_layout_op(const ggml_tensor * t) {
    return t->op == GGML_OP_NONE || t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE ||
           t->op == GGML_OP_TRANSPOSE;
}

// One node of a graph with a session.
ggml_status compute_node(stream & s, const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_FLASH_ATTN_EXT: attention_run_node(node, s.n_threads, s.session->kernels->isa, s.space); return GGML_STATUS_SUCCESS;
        case GGML_OP_ROPE: s.turns.run(node, s.n_threads); return GGML_STATUS_SUCCESS;
        case GGML_OP_GLU:
        case GGML_OP_MUL_MAT_ID: return s.block.take(node, *s.session, s.n_threads);
        case GGML_OP_MUL_MAT:
            if (!dense_supports(node)) {
                return s.block.take(node, *s.session, s.n_threads);
            }
            dense_run(node, s.n_threads, *s.session->kernels, s.space);
            return GGML_STATUS_SUCCESS;
        default: break;
    }
    if (!glue_run(node, s.n_threads)) {
        s.session->failure = std::string("an index outside of the rows at node ") + node->name + " (" + ggml_op_name(node->op) + ")";
        return GGML_STATUS_FAILED;
    }
    return GGML_STATUS_SUCCESS;
}

ggml_status compute(stream & s, ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor * node = ggml_graph_node(graph, i);
        if (is_layout_op(node)) {
            continue;
        }
        if (!s.session) { // a guest's context: nothing in it is ours
            return GGML_STATUS_FAILED;
        }
        const ggml_status status = compute_node(s, node);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    return GGML_STATUS_SUCCESS;
}

ggml_status stream_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    try {
        return compute(stream_of(backend), graph);
    } catch (const std::bad_alloc &) {
        return GGML_STATUS_ALLOC_FAILED;
    } catch (...) {
        return GGML_STATUS_FAILED;
    }
}

void set_n_threads(ggml_backend_t backend, int n_threads) { stream_of(backend).n_threads = n_threads; }

// libllama passes the abort callback of a context to each of its backends. Ours carries
// the session, which binds the stream to its context without any global state.
void set_abort_callback(ggml_backend_t backend, ggml_abort_callback callback, void * data) {
    stream_of(backend).session = callback == session_cancelled ? static_cast<ffn_session *>(data) : nullptr;
}

ggml_guid_t guid() {
    static ggml_guid id = {0x74, 0x75, 0x72, 0x62, 0x6f, 0x73, 0x70, 0x61, 0x72, 0x73, 0x65, 0x2d, 0x66, 0x66, 0x6e, 0x01};
    return &id;
}

// --- device ----------------------------------------------------------------------

const char *               device_name(ggml_backend_dev_t) { return "SPARSE"; }
const char *               device_description(ggml_backend_dev_t) { return "activation-sparse FFN"; }
enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_ACCEL; }

void device_memory(ggml_backend_dev_t, size_t * free, size_t * total) { *free = *total = 0; }

void device_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    *props             = {};
    props->name        = device_name(dev);
    props->description = device_description(dev);
    props->type        = device_type(dev);
}

// Never null: a null stream would stop every llama_context of the process from being made.
ggml_backend_t device_init(ggml_backend_dev_t dev, const char *) {
    auto s                 = std::make_unique<stream>();
    auto backend           = std::make_unique<ggml_backend>();
    backend->guid          = guid();
    backend->slots.name    = stream_name;
    backend->slots.free    = stream_free;
    backend->slots.compute = stream_compute;
    backend->device        = dev;
    backend->context       = s.release();
    return backend.release();
}

ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t) {
    return ggml_backend_dev_buffer_type(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
}

bool is_our_product(const ggml_tensor * t) {
    return t && (t->op == GGML_OP_MUL_MAT || t->op == GGML_OP_MUL_MAT_ID) && find_weight(t->src[0]);
}

// The one place that says what runs here: our weights, FFN products and the GLU between, products with
// the other matrices, and what lies between those in graphs of our models.
bool device_supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_NONE: return find_weight(op) || find_matrix(op).type >= 0;
        case GGML_OP_MUL_MAT: return is_our_product(op) || dense_supports(op);
        case GGML_OP_MUL_MAT_ID: return is_our_product(op);
        case GGML_OP_FLASH_ATTN_EXT: return attention_supports(op);
        case GGML_OP_GLU: return is_our_product(op->src[0]) && is_our_product(op->src[1]);
        case GGML_OP_ROPE: return rope_supports(op) && is_of_our_model(op);
        default: return glue_supports(op) && is_of_our_model(op);
    }
}

bool device_supports_buffer_type(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
    return is_weight_buffer_type(type) || ggml_backend_buft_is_host(type);
}

// --- registry ----------------------------------------------------------------------

const char *       reg_name(ggml_backend_reg_t) { return "SPARSE"; }
size_t             reg_device_count(ggml_backend_reg_t) { return 1; }
ggml_backend_dev_t reg_device(ggml_backend_reg_t, size_t) { return backend_device(); }

void * reg_proc_address(ggml_backend_reg_t, const char * name) {
    if (std::strcmp(name, "ggml_backend_set_n_threads") == 0) {
        return reinterpret_cast<void *>(set_n_threads);
    }
    if (std::strcmp(name, "ggml_backend_set_abort_callback") == 0) {
        return reinterpret_cast<void *>(set_abort_callback);
    }
    return nullptr;
}

ggml_backend_reg make_reg() {
    ggml_backend_reg reg{};
    reg.api_version        = abi::interface_version;
    reg.slots.name         = reg_name;
    reg.slots.device_count = reg_device_count;
    reg.slots.device       = reg_device;
    reg.slots.proc_address = reg_proc_address;
    return reg;
}

ggml_backend_device make_device() {
    ggml_backend_device dev{};
    dev.slots.name                 = device_name;
    dev.slots.description          = device_description;
    dev.slots.memory               = device_memory;
    dev.slots.type                 = device_type;
    dev.slots.props                = device_props;
    dev.slots.init_backend         = device_init;
    dev.slots.buffer_type          = device_buffer_type;
    dev.slots.supports_op          = device_supports_op;
    dev.slots.supports_buffer_type = device_supports_buffer_type;
    dev.reg                        = backend_reg();
    return dev;
}

} // namespace

ggml_backend_reg_t backend_reg() {
    static ggml_backend_reg reg = make_reg();
    return &reg;
}

ggml_backend_dev_t backend_device() {
    static ggml_backend_device dev = make_device();
    return &dev;
}

} // namespace ggml_sparse

// Entry of ggml_backend_load and GGML_BACKEND_PATH.
extern "C" {
GGML_BACKEND_API ggml_backend_reg_t ggml_backend_init(void) { return ggml_sparse::backend_reg(); }
}
