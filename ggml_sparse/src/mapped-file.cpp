#include "mapped-file.h"

#include "error.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <omp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ggml_sparse {

static constexpr size_t k_huge_page    = size_t(2) << 20;
static constexpr size_t k_chunk        = size_t(16) << 20; // of a parallel read
static constexpr size_t k_staged       = size_t(1) << 19;  // of a rewritten one: stays in L2 in between
static constexpr int    k_read_threads = 4;                // more do not copy faster from the page cache

static error file_error(const std::string & path, const std::string & what) {
    error e(GGML_SPARSE_ERR_FILE, path + ": " + what + ".");
    e.at(path);
    return e;
}

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Address space that begins on a huge page, so that moving memory into it keeps such pages whole.
static uint8_t * reserve(size_t n) {
    void * base = mmap(nullptr, n + k_huge_page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return nullptr;
    }
    auto *       first = static_cast<uint8_t *>(base);
    uint8_t *    start = first + (k_huge_page - reinterpret_cast<uintptr_t>(base) % k_huge_page) % k_huge_page;
    const size_t head  = size_t(start - first);
    if (head) {
        munmap(first, head);
    }
    munmap(start + n, k_huge_page - head);
    return start;
}

mapped_file::mapped_file(const std::string & path) : path_(path) {
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) {
        throw file_error(path, std::strerror(errno));
    }
    struct stat st{};
    try {
        if (fstat(fd_, &st) != 0 || !S_ISREG(st.st_mode)) {
            throw file_error(path, "not a regular file");
        }
        if (st.st_size == 0) {
            throw format_error(path, "header", "a GGUF file", "an empty file").at(path);
        }
        size_             = size_t(st.st_size);
        uint8_t * address = reserve(round_up(size_, k_huge_page));
        if (!address || mmap(address, size_, PROT_READ, MAP_SHARED | MAP_FIXED, fd_, 0) == MAP_FAILED) {
            const int failure = errno;
            if (address) {
                munmap(address, round_up(size_, k_huge_page));
            }
            throw file_error(path, std::string("cannot be mapped: ") + std::strerror(failure));
        }
        data_ = address;
    } catch (...) {
        close(fd_);
        throw;
    }
}

mapped_file::~mapped_file() {
    munmap(const_cast<uint8_t *>(data_), round_up(size_, k_huge_page));
    if (fd_ >= 0) {
        close(fd_);
    }
}

// False when the file ended early or could not be read; errno tells.
static bool read_all(int fd, uint8_t * to, size_t offset, size_t n) {
    while (n > 0) {
        const ssize_t got = pread(fd, to, n, off_t(offset));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            errno = got < 0 ? errno : EIO;
            return false;
        }
        to += got;
        offset += size_t(got);
        n -= size_t(got);
    }
    return true;
}

namespace {

struct piece { // of one thread's work
    size_t                  begin, end;
    const rewritten_range * rewritten; // or null: to be copied
};

std::vector<piece> cut(size_t size, const std::vector<rewritten_range> & rewritten) {
    std::vector<piece> pieces;
    const auto         add = [&](size_t begin, size_t end, size_t step, const rewritten_range * range) {
        for (size_t at = begin; at < end; at += step) {
            pieces.push_back({at, std::min(end, at + step), range});
        }
    };
    size_t at = 0;
    for (const rewritten_range & r : rewritten) {
        add(at, r.begin, k_chunk, nullptr);
        add(r.begin, r.end, std::max(k_chunk / r.unit, size_t(1)) * r.unit, &r);
        at = r.end;
    }
    add(at, size, k_chunk, nullptr);
    return pieces;
}

size_t staged_size(const rewritten_range & r) { return std::max(k_staged / r.unit, size_t(1)) * r.unit; }

// What a thread needs to rewrite a part of any range.
size_t most_staged(const std::vector<rewritten_range> & rewritten) {
    size_t n = 0;
    for (const rewritten_range & r : rewritten) {
        n = std::max(n, staged_size(r));
    }
    return n;
}

bool read_piece(int fd, const piece & p, uint8_t * memory, uint8_t * staged) {
    if (!p.rewritten) {
        return read_all(fd, memory + p.begin, p.begin, p.end - p.begin);
    }
    const rewritten_range & r    = *p.rewritten;
    const size_t            step = staged_size(r);
    for (size_t at = p.begin; at < p.end; at += step) {
        const size_t n = std::min(step, p.end - at);
        if (!read_all(fd, staged, at, n)) {
            return false;
        }
        for (size_t i = 0; i < n; i += r.unit) {
            r.write(r.arg, staged + i, memory + r.to + (at + i - r.begin) / r.unit * r.stride);
        }
    }
    return true;
}

} // namespace

void mapped_file::make_resident(const std::vector<rewritten_range> & rewritten) {
    if (resident_) {
        return;
    }
    // before the threads start, which must not throw
    const std::vector<piece> pieces   = cut(size_, rewritten);
    const size_t             n_staged = most_staged(rewritten);
    std::vector<uint8_t>     staged(n_staged * k_read_threads);

    const size_t room   = round_up(size_, k_huge_page);
    uint8_t *    memory = reserve(room);
    if (!memory || mprotect(memory, room, PROT_READ | PROT_WRITE) != 0) {
        if (memory) {
            munmap(memory, room);
        }
        throw error(GGML_SPARSE_ERR_MEMORY, path_ + ": no memory for " + std::to_string(size_ >> 20) + " MiB of weights.")
            .at(path_)
            .counts(int64_t(size_), int64_t(available_memory()));
    }
    madvise(memory, room, MADV_HUGEPAGE); // a hint: with small pages it is only slower
    std::atomic<int> failure{0};
#pragma omp parallel for schedule(dynamic) num_threads(k_read_threads)
    for (size_t i = 0; i < pieces.size(); ++i) {
        if (failure == 0 && !read_piece(fd_, pieces[i], memory, staged.data() + n_staged * size_t(omp_get_thread_num()))) {
            failure = errno;
        }
    }
    if (failure != 0) {
        munmap(memory, room);
        throw file_error(path_, std::string("cannot be read into memory: ") + std::strerror(failure));
    }
    mprotect(memory, room, PROT_READ);
    void * address = const_cast<uint8_t *>(data_);
    if (mremap(memory, room, room, MREMAP_MAYMOVE | MREMAP_FIXED, address) == MAP_FAILED) {
        munmap(memory, room);
        throw file_error(path_, std::string("cannot be moved into memory: ") + std::strerror(errno));
    }
    resident_ = true;
    close(fd_);
    fd_ = -1;
}

// --- what there is room for ------------------------------------------------------

static constexpr uint64_t k_unknown = UINT64_MAX;

static uint64_t first_number(const char * path) {
    std::ifstream f(path);
    uint64_t      n = 0;
    return f >> n ? n : k_unknown; // "max" is no number
}

static uint64_t system_available() {
    std::ifstream f("/proc/meminfo");
    for (std::string key; f >> key;) {
        uint64_t kib = 0;
        if (key == "MemAvailable:" && f >> kib) {
            return kib << 10;
        }
    }
    return k_unknown;
}

uint64_t available_memory() {
    const uint64_t limit = first_number("/sys/fs/cgroup/memory.max"), used = first_number("/sys/fs/cgroup/memory.current");
    const uint64_t within = limit == k_unknown || used == k_unknown ? k_unknown : limit - std::min(limit, used);
    const uint64_t n      = std::min(system_available(), within);
    return n == k_unknown ? 0 : n;
}

} // namespace ggml_sparse
