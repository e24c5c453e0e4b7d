// The threads and the memory of pool.h.
#include "pool.h"

#include <algorithm>
#if !defined(__wasm__)
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace vaec {
namespace {

constexpr size_t SMALLEST_BLOCK = 1 << 20, MOST_KEPT = 96 << 20, VECTOR = 64;

#if !defined(__wasm__)

constexpr size_t MOST_THREADS = 256;

struct Job {
    void (*work)(void*, size_t);
    void* context;
    size_t count, next, done, helpers;  // number of helpers that may still join
    bool failed = false;
};

class Pool {
  public:
    // Does the job with the help of other threads; false if the pool is busy.
    bool run(Job& job) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (job_) return false;
        grow(job.helpers);
        job_ = &job;
        const size_t helpers = std::min(job.helpers, job.count - 1);
        for (size_t n = 0; n < helpers; ++n) wake_.notify_one();
        take_part(job, lock);
        finished_.wait(lock, [&] { return job.done == job.count; });
        job_ = nullptr;
        return true;
    }

  private:
    void grow(size_t threads) {
        threads = std::min(threads, MOST_THREADS);
        while (size_ < threads) {
            try {
                std::thread([this] { serve(); }).detach();
            } catch (const std::system_error&) {
                return;  // continue with fewer threads
            }
            ++size_;
        }
    }

    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return job_ && job_->helpers && job_->next < job_->count; });
            --job_->helpers;
            take_part(*job_, lock);
        }
    }

    // The job exists until all its parts are done, so at least until this thread has finished its part.
    void take_part(Job& job, std::unique_lock<std::mutex>& lock) {
        while (job.next < job.count) {
            const size_t n = job.next++;
            lock.unlock();
            bool failed = false;
            try {
                job.work(job.context, n);
            } catch (...) {
                failed = true;  // the only possible failure is a lack of memory
            }
            lock.lock();
            job.failed |= failed;
            if (++job.done == job.count) {
                finished_.notify_one();
                return;
            }
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, finished_;
    Job* job_ = nullptr;
    size_t size_ = 0;
};

// Never deleted: its threads may outlive the end of main().
Pool* the_pool = nullptr;
std::once_flag pool_made;

// A forked process lacks the threads, and may inherit a locked mutex, so it starts with a new pool.
void after_fork() { the_pool = new (std::nothrow) Pool; }

Pool* pool() {
    std::call_once(pool_made, [] {
        the_pool = new (std::nothrow) Pool;
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork(nullptr, nullptr, after_fork);
#endif
    });
    return the_pool;
}

// Whether the job was done with the help of others.
bool run_shared(size_t count, size_t threads, void (*work)(void*, size_t), void* context) {
    Job job{work, context, count, 0, 0, threads - 1};
    Pool* shared = pool();
    if (!shared || !shared->run(job)) return false;
    if (job.failed) throw std::bad_alloc();
    return true;
}

#else

bool run_shared(size_t, size_t, void (*)(void*, size_t), void*) { return false; }

#endif

}  // namespace

void run_parallel(size_t count, size_t threads, void (*work)(void*, size_t), void* context) {
    if (count > 1 && threads > 1 && run_shared(count, threads, work, context)) return;
    for (size_t n = 0; n < count; ++n) work(context, n);
}

Scratch::Stack& Scratch::stack() {
    static thread_local Stack own;
    return own;
}

Scratch::Stack::~Stack() {
    for (Block& block : blocks) std::free(block.data);
}

Scratch::~Scratch() {
    Stack& own = stack();
    own.top = mark_;
    if (mark_.block || mark_.used) return;
    size_t kept = 0;
    for (Block& block : own.blocks) kept += block.size;
    if (kept <= MOST_KEPT) return;
    for (Block& block : own.blocks) std::free(block.data);
    own.blocks.clear();
}

void* Scratch::take_bytes(size_t bytes) {
    Stack& own = stack();
    bytes = (bytes + 2 * VECTOR - 1) / VECTOR * VECTOR;
    for (;; ++own.top.block, own.top.used = 0) {
        if (own.top.block == own.blocks.size()) {
            const size_t size = std::max(bytes + VECTOR, SMALLEST_BLOCK);
            char* data = static_cast<char*>(std::malloc(size));
            if (!data) throw std::bad_alloc();
            own.blocks.push_back({data, size});
        }
        Block& block = own.blocks[own.top.block];
        size_t start = own.top.used;
        start += -(reinterpret_cast<size_t>(block.data) + start) % VECTOR;
        if (start + bytes <= block.size) {
            own.top.used = start + bytes;
            return block.data + start;
        }
    }
}

}  // namespace vaec
