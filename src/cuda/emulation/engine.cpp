#include "engine.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#ifdef EMULATE_WITH_THREADS
#include <pthread.h>

#include <thread>
#endif

namespace emulation {
namespace {

// Shared memory that ends where a forbidden page begins.
class SharedMemory {
public:
    explicit SharedMemory(size_t bytes) : bytes_(bytes) {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        const size_t room = (bytes + page - 1) / page * page;
        mapped_ = room + 2 * page;
        map_ = (uint8_t*)mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(map_, page, PROT_NONE);
        mprotect(map_ + page + room, page, PROT_NONE);
        start_ = map_ + page + room - bytes;
    }
    ~SharedMemory() { munmap(map_, mapped_); }
    SharedMemory(const SharedMemory&) = delete;
    // Bytes of which any four are a NaN.
    void poison() { memset(start_, 0xff, bytes_); }
    uint8_t* start() const { return start_; }
    size_t bytes() const { return bytes_; }

private:
    uint8_t *map_, *start_;
    size_t bytes_, mapped_;
};

SharedMemory* shared = nullptr;

void check_shared(const void* address, size_t bytes) {
    const uint8_t* at = (const uint8_t*)address;
    if (at < shared->start() || at + bytes > shared->start() + shared->bytes()) fail("access outside of shared memory");
    if ((uintptr_t)at % bytes != 0) fail("misaligned access to shared memory");
}

}  // namespace

uint8_t* shared_memory() { return shared->start(); }
void expect_shared(const void* address, size_t bytes) { check_shared(address, bytes); }

#ifdef EMULATE_WITH_THREADS

namespace {

// Of the system, which ThreadSanitizer knows; it does not spin where threads outnumber the cores.
class Meeting {
public:
    explicit Meeting(unsigned threads) { pthread_barrier_init(&barrier_, nullptr, threads); }
    ~Meeting() { pthread_barrier_destroy(&barrier_); }
    Meeting(const Meeting&) = delete;
    void wait() { pthread_barrier_wait(&barrier_); }

private:
    pthread_barrier_t barrier_;
};

struct Team {
    Warp warp;
    Meeting meeting{LANES};
};
thread_local Thread* running = nullptr;
thread_local Team* team = nullptr;
Meeting* block_meeting = nullptr;

}  // namespace

Thread& self() { return *running; }

void fail(const char* what) {
    fprintf(stderr, "emulation: %s\n", what);
    abort();
}

const Result& collective(const char*, const Deposit& deposit, void (*compute)(Warp&)) {
    team->warp.deposits[running->lane] = deposit;
    team->meeting.wait();
    if (running->lane == 0) compute(team->warp);
    team->meeting.wait();
    // The next collective writes results only after all lanes have come to it.
    return team->warp.results[running->lane];
}

void barrier() { block_meeting->wait(); }

// The threads do one block after the other. One that ends early waits for the others at the block's end: the kernels
// have no barrier after that.
int launch(const unsigned* grid, unsigned threads, unsigned shared_bytes, void (*body)(void*), void* argument) {
    SharedMemory memory(shared_bytes);
    shared = &memory;
    Meeting meeting(threads), ends(threads);
    block_meeting = &meeting;
    std::vector<std::unique_ptr<Team>> teams;
    for (unsigned i = 0; i < threads / LANES; i++) teams.push_back(std::make_unique<Team>());
    std::vector<std::thread> all;
    for (unsigned i = 0; i < threads; i++) {
        all.emplace_back([&, i] {
            team = teams[i / LANES].get();
            for (unsigned block = 0; block < grid[0] * grid[1] * grid[2]; block++) {
                if (i == 0) memory.poison();
                ends.wait();
                Thread thread;
                thread.index.x = i;
                thread.block_index = {block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]};
                thread.block_size.x = threads;
                thread.grid_size = {grid[0], grid[1], grid[2]};
                thread.lane = i % LANES;
                running = &thread;
                thread.warp = &team->warp;
                body(argument);
                ends.wait();
            }
        });
    }
    for (std::thread& thread : all) thread.join();
    return 0;
}

#else

#if !defined(__x86_64__)
#error "the fibers know x86-64 only: compile with -DEMULATE_WITH_THREADS"
#endif

// Saves what a call must leave alone, and the stack; goes on on another stack.
extern "C" void hex_switch_stacks(void** save, void* load);
asm(R"(
.text
.globl hex_switch_stacks
.hidden hex_switch_stacks
.type hex_switch_stacks, @function
hex_switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size hex_switch_stacks, .-hex_switch_stacks
)");

namespace {

constexpr size_t STACK = 256 << 10;

enum State { READY, AT_COLLECTIVE, AT_BARRIER, ENDED };

struct Team {
    Warp warp;
    int arrived = 0, ended = 0;
    unsigned generation = 0;
    const char* kind = nullptr;
};

struct Fiber {
    Thread thread;
    Team* team = nullptr;
    void* stack_pointer = nullptr;
    State state = READY;
    unsigned waits_for = 0;  // the collective's generation
};

Fiber* running = nullptr;
void* scheduler = nullptr;
bool failed = false;
void (*kernel)(void*) = nullptr;
void* kernel_argument = nullptr;

void yield() { hex_switch_stacks(&running->stack_pointer, scheduler); }

void run_fiber() {
    kernel(kernel_argument);
    running->state = ENDED;
    running->team->ended++;
    yield();
    abort();
}

void start(Fiber& fiber, uint8_t* stack) {
    void** top = (void**)(stack + STACK) - 2;
    *top = (void*)run_fiber;  // where the first switch returns to, on a stack as after a call
    fiber.stack_pointer = top - 6;
    memset(fiber.stack_pointer, 0, 6 * sizeof(void*));
}

bool can_run(const Fiber& fiber) {
    return fiber.state == READY || (fiber.state == AT_COLLECTIVE && fiber.team->generation != fiber.waits_for);
}

// Runs a warp until all its lanes wait at the barrier or have ended.
void run_warp(Fiber* lanes) {
    for (bool progress = true; progress && !failed;) {
        progress = false;
        for (int lane = 0; lane < LANES && !failed; lane++) {
            if (!can_run(lanes[lane])) continue;
            progress = true;
            running = &lanes[lane];
            running->state = READY;
            hex_switch_stacks(&scheduler, running->stack_pointer);
        }
    }
    for (int lane = 0; lane < LANES && !failed; lane++) {
        if (lanes[lane].state == AT_COLLECTIVE) {
            fprintf(stderr, "emulation: not all lanes come to %s\n", lanes[lane].team->kind);
            failed = true;
        }
    }
}

}  // namespace

Thread& self() { return running->thread; }

void fail(const char* what) {
    fprintf(stderr, "emulation: %s\n", what);
    failed = true;
    yield();
    abort();
}

const Result& collective(const char* kind, const Deposit& deposit, void (*compute)(Warp&)) {
    Team& team = *running->team;
    if (team.arrived == 0) team.kind = kind;
    if (team.kind != kind) fail("lanes of a warp at different collectives");
    const int lane = running->thread.lane;
    team.warp.deposits[lane] = deposit;
    if (++team.arrived == LANES) {
        team.arrived = 0;
        team.generation++;
        compute(team.warp);
    } else {
        running->waits_for = team.generation;
        running->state = AT_COLLECTIVE;
        yield();
    }
    return team.warp.results[lane];
}

void barrier() {
    running->state = AT_BARRIER;
    yield();
}

int launch(const unsigned* grid, unsigned threads, unsigned shared_bytes, void (*body)(void*), void* argument) {
    SharedMemory memory(shared_bytes);
    shared = &memory;
    kernel = body;
    kernel_argument = argument;
    failed = false;
    const size_t mapped = threads * STACK;
    uint8_t* stacks = (uint8_t*)mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    const unsigned warps = threads / LANES, blocks = grid[0] * grid[1] * grid[2];
    for (unsigned block = 0; block < blocks && !failed; block++) {
        memory.poison();
        std::vector<Team> teams(warps);
        std::vector<Fiber> fibers(threads);
        for (unsigned i = 0; i < threads; i++) {
            Fiber& fiber = fibers[i];
            fiber.thread.index.x = i;
            fiber.thread.block_index = {block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]};
            fiber.thread.block_size.x = threads;
            fiber.thread.grid_size = {grid[0], grid[1], grid[2]};
            fiber.thread.lane = i % LANES;
            fiber.team = &teams[i / LANES];
            fiber.thread.warp = &fiber.team->warp;
            start(fiber, stacks + i * STACK);
        }
        for (bool forwards = true, waiting = true; waiting && !failed; forwards = !forwards) {
            for (unsigned i = 0; i < warps && !failed; i++) run_warp(&fibers[(forwards ? i : warps - 1 - i) * LANES]);
            waiting = false;
            for (Fiber& fiber : fibers) {
                if (fiber.state != AT_BARRIER) continue;
                fiber.state = READY;
                waiting = true;
            }
        }
    }
    munmap(stacks, mapped);
    return failed ? 2 : 0;
}

#endif

}  // namespace emulation
