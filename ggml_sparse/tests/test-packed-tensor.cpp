// A product that our backend does not take, of a matrix whose rows are packed: ggml's scheduler copies the
// matrix to the CPU backend, which must find rows in ggml's layout.

#include "backend.h"
#include "buffer.h"
#include "ggml-cpu.h"
#include "packing.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <vector>

using namespace ggml_sparse;

static constexpr int64_t N_COL = 512, N_ROW = 24, N_TOKEN = 2, N_BATCH = 3; // dense_supports wants N_BATCH 1
static const char        NAME[] = "output.weight";

static std::vector<float> floats(size_t n) {
    std::vector<float> x(n);
    for (float & v : x) {
        v = static_cast<float>(rand()) / static_cast<float>(RAND_MAX) - 0.5f;
    }
    return x;
}

static void write_file(const std::string & path) {
    ggml_context * ctx = ggml_init({1 << 20, nullptr, false});
    gguf_context * g   = gguf_init_empty();
    ggml_tensor *  w   = ggml_new_tensor_2d(ctx, GGML_TYPE_Q4_0, N_COL, N_ROW);
    ggml_quantize_chunk(w->type, floats(N_COL * N_ROW).data(), w->data, 0, N_ROW, N_COL, nullptr);
    ggml_set_name(w, NAME);
    gguf_add_tensor(g, w);
    gguf_write_to_file(g, path.c_str(), false);
    gguf_free(g);
    ggml_free(ctx);
}

// Packs the matrix of `type`, as ggml_sparse_model::make_resident does.
static void pack(gguf_file & file, rows_buffer_type & type) {
    const gguf_tensor_info & info    = *file.find_tensor(NAME);
    const row_packing &      packing = *packing_find(info.type, GGML_SPARSE_LAYOUT_PACKED, N_COL);
    const size_t             row     = info.nbytes / N_ROW;
    file.bytes().make_resident({{info.offset, info.offset + info.nbytes, row, packing.pack, N_COL, info.offset, row}});
    type.matrices().front().layout = GGML_SPARSE_LAYOUT_PACKED;
}

// w times x [N_BATCH][N_TOKEN], by the scheduler.
static std::vector<float> product(ggml_tensor * w, const std::vector<float> & x, bool & ours) {
    ggml_backend_t       backends[] = {ggml_backend_dev_init(backend_device(), nullptr), ggml_backend_cpu_init()};
    ggml_backend_sched_t sched      = ggml_backend_sched_new(backends, nullptr, 2, GGML_DEFAULT_GRAPH_SIZE, false, false);
    ggml_context *       ctx        = ggml_init({1 << 20, nullptr, true});
    ggml_tensor *        in         = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, N_COL, N_TOKEN, N_BATCH);
    ggml_tensor *        out        = ggml_mul_mat(ctx, w, in);
    ggml_cgraph *        graph      = ggml_new_graph(ctx);
    ggml_set_input(in);
    ggml_set_output(out);
    ggml_build_forward_expand(graph, out);

    std::vector<float> y(static_cast<size_t>(ggml_nelements(out)));
    if (ggml_backend_sched_alloc_graph(sched, graph)) {
        ggml_backend_tensor_set(in, x.data(), 0, ggml_nbytes(in));
        ours = ggml_backend_sched_get_tensor_backend(sched, out) == backends[0];
        ggml_backend_sched_graph_compute(sched, graph);
        ggml_backend_tensor_get(out, y.data(), 0, ggml_nbytes(out));
    }
    ggml_backend_sched_free(sched);
    ggml_free(ctx);
    for (ggml_backend_t b : backends) {
        ggml_backend_free(b);
    }
    return y;
}

int main() {
    const std::string path = "/proc/self/fd/" + std::to_string(memfd_create("packed-tensor", 0));
    write_file(path);
    gguf_file        file(path);
    rows_buffer_type type(file);

    ggml_context * ctx = ggml_init({1 << 20, nullptr, true});
    ggml_tensor *  w   = ggml_new_tensor_2d(ctx, GGML_TYPE_Q4_0, N_COL, N_ROW);
    ggml_set_name(w, NAME);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(ctx, type.get());
    ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);

    const std::vector<float>   x    = floats(N_COL * N_TOKEN * N_BATCH);
    bool                       ours = true, ours_packed = true;
    const std::vector<float>   expected = product(w, x, ours);
    const std::vector<uint8_t> plain(static_cast<uint8_t *>(w->data), static_cast<uint8_t *>(w->data) + ggml_nbytes(w));
    pack(file, type);
    const bool               moved = std::memcmp(plain.data(), w->data, plain.size()) != 0;
    const std::vector<float> found = product(w, x, ours_packed);
    const bool               same  = found == expected && found[0] != 0;
    ggml_backend_buffer_free(buffer);
    ggml_free(ctx);

    std::printf("%s\n", same && moved && !ours && !ours_packed ? "ok" : "FAILED");
    return same && moved && !ours && !ours_packed ? 0 : 1;
}
