// fake_cuda.c: a libcuda and a libnvrtc of two GPUs that exist only in host memory, for tests/fake_driver.rs,
// and for the tests of the CUDA backend's book-keeping.
//
// It checks what a real driver would punish late or never: calls without a current context, wrong handles,
// unmapping what is not mapped, wrong sizes. A breach ends the process with status 97 and its reason. At the
// end it prints what is still alive, so that leaks show. FAKE_FAIL=name or name:code lets one call fail, with
// FAKE_SPARE=n not the first n times; FAKE_NO_HANDLES=1 refuses memory that can be exported, FAKE_ONE_MODEL=1 gives
// both GPUs one name, FAKE_SLOW=name:ms lets one call take so long, FAKE_JITTER=seed lets calls take a little longer, as
// the seed has it, FAKE_BUSY=ms lets kernels of GPU 1 run so long, FAKE_GONE=1 allows kernels of which a peer has unmapped
// the buffers, as one that is gone has, FAKE_PINNED=1 forbids to give pinned memory back. A kernel records a fault, or
// with FAKE_QUIET=1 nothing.
//
// Work is done when it is queued, though FAKE_BUSY lets nobody see it for a while. All streams of a GPU are one here, and
// a capture of it is one that forbids its thread everything that a capture by thread may forbid, and a global one
// all others, too; what it records is done by each launch.
//
// Memory that is exported is known by what is in its file; another mapping of it has bytes of its own. So has a plain
// allocation that is opened by its handle; to free it while it is open is a breach.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int result;
typedef uint64_t address;
enum { PAGE = 2 << 20, GPUS = 2, CONTEXTS = 0x1000, MODULE = 0x2000, FUNCTION = 0x3000 };

static __thread int depth;
static __thread long stack[64];
static _Atomic int retained, streams, events, pages, reserved, mapped, allocated, opened, pinned, modules, graphs, execs, launches;
enum { MANY = 4096 };
// Addresses that are reserved.
static struct { address start; size_t bytes; } ranges[MANY];
// What lies at addresses: pages, a plain allocation, memory of a pool, an allocation that was opened. `of`: its place in physical, or in maps;
// `times`: how often the allocation is open.
enum kind { NOTHING, PAGES, PLAIN, POOL, OPENED };
static struct { enum kind kind; address start; size_t bytes; int owner, users, of, times; } maps[MANY];
// Pages, how many handles to them there are, how often they are mapped, and what is in their file.
static struct { size_t bytes; int owner, types, handles, maps; uint64_t stamp; } physical[MANY];
static uint64_t stamps;
static int handles[MANY];  // place in physical, plus 1
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static void unlock(pthread_mutex_t** held) { pthread_mutex_unlock(*held); }
#define LOCKED jitter(); __attribute__((cleanup(unlock))) pthread_mutex_t* held_ = &memory_lock; pthread_mutex_lock(held_)

// Every call begins by this, or makes a context current before.
static void jitter(void) {
    static __thread uint64_t state;
    static _Atomic uint64_t threads;
    char const* seed = getenv("FAKE_JITTER");
    if (!seed) return;
    if (!state) state = (strtoull(seed, 0, 10) * 1000 + ++threads) * 0x9e3779b97f4a7c15 | 1;
    state ^= state << 13; state ^= state >> 7; state ^= state << 17;
    // One in 16 takes up to 1 ms, one in 1024 up to 20 ms.
    if (state >> 60 == 0) usleep((state >> 50 & 63) == 0 ? state % 20000 : state % 1000);
}

static void breach(char const* why) { fprintf(stderr, "BREACH: %s\n", why); _exit(97); }
#define NEED(condition) do { if (!(condition)) breach(#condition); } while (0)
#define CURRENT NEED(depth > 0)

static result fails(char const* name) {
    char const* wanted = getenv("FAKE_FAIL");
    size_t length = strlen(name);
    if (!wanted || strncmp(wanted, name, length) != 0) return 0;
    static _Atomic int asked;
    char const* spare = getenv("FAKE_SPARE");
    if (spare && asked++ < atoi(spare)) return 0;
    if (wanted[length] == ':') return atoi(wanted + length + 1);
    return wanted[length] == 0 ? 999 : 0;
}
static void slow(char const* name) {
    char const* wanted = getenv("FAKE_SLOW");
    size_t length = strlen(name);
    if (wanted && strncmp(wanted, name, length) == 0 && wanted[length] == ':') usleep(1000 * atoi(wanted + length + 1));
}
#define CALL(name) do { slow(#name); result code = fails(#name); if (code) return code; } while (0)

__attribute__((destructor)) static void report(void) {
    // Other threads may be about to free the last of it.
    for (int i = 0; i < 2000 && (streams | events | pages | reserved | mapped | allocated | opened); ++i) usleep(1000);
    fprintf(stderr, "ALIVE: depth %d contexts %d streams %d events %d pages %d reserved %d mapped %d allocated %d opened %d pinned %d modules %d graphs %d execs %d launches %d\n",
            depth, retained, streams, events, pages, reserved, mapped, allocated, opened, pinned, modules, graphs, execs, launches);
}

// A recorded fill or launch, and the list that the stream, a graph or an executable graph has.
struct launch { uint32_t* fault; uint32_t rank, blocks, threads; };
struct work { address at; size_t bytes; unsigned char value; struct launch launch; };
struct list { int count; struct work work[8]; };
static struct list* capturing;
static void* captured_stream;
static __thread int captures_here;
// What captures forbid a thread, in the driver's numbers: 0 all of them, 1 its own, 2 none.
static __thread int mode_here;
static _Atomic int captures_globally;
// What a thread that captures may not ask or do.
#define EAGER NEED(mode_here == 2 || (!captures_here && (mode_here || !captures_globally)))
// Whether work on this stream is recorded.
static int recorded(void* stream, struct work work) {
    if (!capturing || stream != captured_stream) return 0;
    NEED(capturing->count < 8);
    capturing->work[capturing->count++] = work;
    return 1;
}
static int gpu(void) { return (int)(stack[depth - 1] - CONTEXTS); }
static _Atomic int64_t busy_until;
static int64_t now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
static int64_t busy_ms(void) { int64_t left = gpu() == 1 ? busy_until - now_ms() : 0; return left > 0 ? left : 0; }
static void launch_now(struct launch launch) {
    launches++;
    if (getenv("FAKE_BUSY") && gpu() == 1) busy_until = now_ms() + atoi(getenv("FAKE_BUSY"));
    // The counters of waits in the page: 1024 polls for data a launch, 2048 for credit, and 5000 ns.
    uint64_t* waits = (uint64_t*)launch.fault + 256 / 8;
    __atomic_fetch_add(&waits[0], 1024, __ATOMIC_RELAXED);
    __atomic_fetch_add(&waits[1], 2048, __ATOMIC_RELAXED);
    __atomic_store_n(&waits[2], 5000, __ATOMIC_RELAXED);
    if (getenv("FAKE_QUIET")) return;
    launch.fault[1] = launch.rank; launch.fault[2] = launch.blocks; launch.fault[3] = launch.threads;
    __atomic_store_n(launch.fault, 1, __ATOMIC_RELEASE);
}

result cuInit(unsigned flags) { CALL(cuInit); NEED(flags == 0); return 0; }
result cuDriverGetVersion(int* v) { *v = 13000; return 0; }
result cuDeviceGetCount(int* n) { *n = GPUS; return 0; }
result cuDeviceGet(int* d, int i) { *d = i; return 0; }
result cuDeviceGetName(char* s, int n, int d) { snprintf(s, n, "Fake %d", getenv("FAKE_ONE_MODEL") ? 0 : d); return 0; }
result cuDeviceGetPCIBusId(char* s, int n, int d) { snprintf(s, n, "0000:%02x:00.0", d); return 0; }
result cuDeviceTotalMem_v2(size_t* b, int d) { (void)d; *b = (size_t)1 << 34; return 0; }
result cuDeviceGetAttribute(int* v, int a, int d) {
    (void)d;
    *v = a == 97 ? 227 << 10 : a == 75 ? 9 : a == 76 ? 0 : a == 16 ? 132 : a == 17 ? 0 : 1;
    return 0;
}
result cuDeviceCanAccessPeer(int* can, int a, int b) { NEED(a != b); *can = !getenv("FAKE_NO_PEERS"); return 0; }
result cuDeviceGetP2PAttribute(int* v, int a, int x, int y) { NEED(x != y); *v = a != 1; return 0; }

result cuDevicePrimaryCtxRetain(void** c, int d) { CALL(cuDevicePrimaryCtxRetain); retained++; *c = (void*)(long)(CONTEXTS + d); return 0; }
result cuDevicePrimaryCtxRelease_v2(int d) { NEED(d < GPUS && retained > 0); retained--; return 0; }
result cuCtxPushCurrent_v2(void* c) { jitter(); NEED((long)c >= CONTEXTS && (long)c < CONTEXTS + GPUS && depth < 64); stack[depth++] = (long)c; return 0; }
result cuCtxPopCurrent_v2(void** c) { jitter(); NEED(depth > 0); *c = (void*)stack[--depth]; return 0; }

result cuMemGetInfo_v2(size_t* free, size_t* total) { CURRENT; *free = 3 << 20; *total = (size_t)1 << 34; return 0; }
struct location { int type, id; };
struct properties { int type, handles; struct location where; void* meta; unsigned char flags[8]; };
struct access { struct location where; int flags; };

result cuMemGetAllocationGranularity(size_t* g, struct properties const* p, int option) {
    NEED(p->type == 1 && p->where.type == 1 && p->where.id < GPUS && option == 0);
    *g = PAGE;
    return 0;
}
static result hold(int i, uint64_t* h) {
    for (int k = 0; k < MANY; ++k)
        if (!handles[k]) { handles[k] = i + 1; physical[i].handles++; pages++; *h = k + 1; return 0; }
    return 2;
}
result cuMemCreate(uint64_t* h, size_t n, struct properties const* p, unsigned long long flags) {
    CALL(cuMemCreate); EAGER;
    NEED(n > 0 && n % PAGE == 0 && flags == 0 && (p->handles == 0 || p->handles == 1));
    if (p->handles && getenv("FAKE_NO_HANDLES")) return 801;
    LOCKED;
    for (int i = 0; i < MANY; ++i)
        if (!physical[i].handles && !physical[i].maps) {
            physical[i].bytes = n; physical[i].owner = p->where.id; physical[i].types = p->handles; physical[i].stamp = ++stamps;
            return hold(i, h);
        }
    return 2;
}
static int physical_of(uint64_t h) { NEED(h >= 1 && h <= MANY && handles[h - 1]); return handles[h - 1] - 1; }
result cuMemRelease(uint64_t h) { LOCKED; physical[physical_of(h)].handles--; handles[h - 1] = 0; pages--; return 0; }
result cuMemExportToShareableHandle(void* out, uint64_t h, int type, unsigned long long flags) {
    CALL(cuMemExportToShareableHandle);
    NEED(type == 1 && flags == 0);
    int fd = memfd_create("fake", MFD_CLOEXEC);
    LOCKED;
    int i = physical_of(h);
    NEED(fd >= 0 && physical[i].types == 1 && write(fd, &physical[i].stamp, 8) == 8);
    *(int*)out = fd;
    return 0;
}
result cuMemImportFromShareableHandle(uint64_t* h, void* handle, int type) {
    CURRENT; CALL(cuMemImportFromShareableHandle); EAGER;
    NEED(type == 1);
    uint64_t stamp = 0;
    if (pread((int)(long)handle, &stamp, 8, 0) != 8) return 1;
    LOCKED;
    for (int i = 0; i < MANY; ++i)
        if ((physical[i].handles || physical[i].maps) && physical[i].stamp == stamp) return hold(i, h);
    return 1;
}
result cuMemGetAllocationPropertiesFromHandle(struct properties* p, uint64_t h) {
    LOCKED;
    int i = physical_of(h);
    *p = (struct properties){.type = 1, .handles = physical[i].types, .where = {1, physical[i].owner}};
    return 0;
}
result cuMemAddressReserve(address* a, size_t n, size_t align, address wish, unsigned long long flags) {
    CALL(cuMemAddressReserve);
    NEED(n > 0 && n % PAGE == 0 && align % PAGE == 0 && wish == 0 && flags == 0);
    LOCKED;
    for (int i = 0; i < MANY; ++i)
        if (!ranges[i].start) { ranges[i].start = (address)aligned_alloc(PAGE, n); ranges[i].bytes = n; reserved++; *a = ranges[i].start; return 0; }
    return 2;
}
#define INSIDE(it, a) ((it).start && (a) >= (it).start && (a) < (it).start + (it).bytes)
static int range_of(address a) {
    for (int i = 0; i < MANY; ++i) if (INSIDE(ranges[i], a)) return i;
    return -1;
}
static int map_of(address a) {
    for (int i = 0; i < MANY; ++i) if (maps[i].kind && INSIDE(maps[i], a)) return i;
    return -1;
}
static int new_map(enum kind kind, address start, size_t bytes, int owner, int of) {
    for (int i = 0; i < MANY; ++i)
        if (!maps[i].kind) {
            maps[i].kind = kind; maps[i].start = start; maps[i].bytes = bytes; maps[i].owner = owner; maps[i].users = 0; maps[i].of = of; maps[i].times = 0;
            return i;
        }
    breach("more mappings than the fake has room for");
    return -1;
}
result cuMemAddressFree(address a, size_t n) {
    LOCKED;
    int i = range_of(a);
    NEED(i >= 0 && ranges[i].start == a && ranges[i].bytes == n);
    for (int k = 0; k < MANY; ++k) NEED(!maps[k].kind || !INSIDE(ranges[i], maps[k].start));
    free((void*)a); ranges[i].start = 0; reserved--;
    return 0;
}
result cuMemMap(address a, size_t n, size_t offset, uint64_t h, unsigned long long flags) {
    CALL(cuMemMap);
    LOCKED;
    int i = range_of(a), of = physical_of(h);
    NEED(i >= 0 && a + n <= ranges[i].start + ranges[i].bytes && map_of(a) < 0 && map_of(a + n - 1) < 0 && offset == 0 && flags == 0);
    if (physical[of].bytes != n) return 1;
    new_map(PAGES, a, n, physical[of].owner, of); physical[of].maps++; mapped++;
    return 0;
}
result cuMemUnmap(address a, size_t n) {
    LOCKED;
    int i = map_of(a);
    EAGER;
    NEED(i >= 0 && maps[i].kind == PAGES && maps[i].start == a && maps[i].bytes == n);
    physical[maps[i].of].maps--; maps[i].kind = NOTHING; mapped--;
    return 0;
}
result cuMemSetAccess(address a, size_t n, struct access const* d, size_t count) {
    CALL(cuMemSetAccess);
    LOCKED;
    int i = map_of(a);
    NEED(i >= 0 && maps[i].kind == PAGES && maps[i].start == a && maps[i].bytes == n && count >= 1);
    for (size_t k = 0; k < count; ++k) { NEED(d[k].where.type == 1 && d[k].flags == 3); maps[i].users |= 1 << d[k].where.id; }
    return 0;
}
static void reaches(address a, size_t n) {
    LOCKED;
    for (address end = a + n; a < end;) {
        int i = map_of(a);
        NEED(i >= 0 && (maps[i].users >> gpu() & 1));
        a = maps[i].start + maps[i].bytes;
    }
}
// What other libraries allocate by.
static result allocate(address* a, size_t n, enum kind kind) {
    NEED(n > 0);
    LOCKED;
    int i = new_map(kind, (address)aligned_alloc(512, (n + 511) / 512 * 512), n, gpu(), 0);
    maps[i].users = 1 << gpu(); allocated++; *a = maps[i].start;
    return 0;
}
static result release(address a, enum kind kind) {
    LOCKED;
    int i = map_of(a);
    NEED(i >= 0 && maps[i].kind == kind && maps[i].start == a && !maps[i].times);
    free((void*)a); maps[i].kind = NOTHING; allocated--;
    return 0;
}
result cuMemAlloc_v2(address* a, size_t n) { CURRENT; return allocate(a, n, PLAIN); }
result cuMemFree_v2(address a) { CURRENT; return release(a, PLAIN); }
result cuMemAllocAsync(address* a, size_t n, void* s) { CURRENT; NEED(s); return allocate(a, n, POOL); }
result cuMemFreeAsync(address a, void* s) { CURRENT; NEED(s); return release(a, POOL); }
result cuMemGetAddressRange_v2(address* base, size_t* n, address a) {
    CURRENT; LOCKED;
    int i = map_of(a);
    if (i < 0) return 1;
    *base = maps[i].start; *n = maps[i].bytes;
    return 0;
}
result cuMemRetainAllocationHandle(uint64_t* h, void* a) {
    CALL(cuMemRetainAllocationHandle);
    LOCKED;
    int i = map_of((address)a);
    return i < 0 || maps[i].kind != PAGES ? 1 : hold(maps[i].of, h);
}
struct handle { uint64_t place, start; char rest[48]; };
result cuIpcGetMemHandle(struct handle* h, address a) {
    CURRENT; CALL(cuIpcGetMemHandle); LOCKED;
    int i = map_of(a);
    if (i < 0 || maps[i].kind != PLAIN) return 1;
    NEED(maps[i].start == a);
    *h = (struct handle){.place = (uint64_t)i, .start = a};
    return 0;
}
result cuIpcOpenMemHandle_v2(address* a, struct handle h, unsigned flags) {
    CURRENT; CALL(cuIpcOpenMemHandle_v2); EAGER; LOCKED;
    NEED(flags == 1);
    if (h.place >= MANY || maps[h.place].kind != PLAIN || maps[h.place].start != h.start) return 1;
    // The same address again for a GPU that has it open.
    int i = 0;
    while (i < MANY && !(maps[i].kind == OPENED && maps[i].of == (int)h.place && maps[i].users == 1 << gpu())) ++i;
    if (i == MANY) {
        size_t bytes = maps[h.place].bytes;
        i = new_map(OPENED, (address)aligned_alloc(512, (bytes + 511) / 512 * 512), bytes, maps[h.place].owner, (int)h.place);
        maps[i].users = 1 << gpu();
    }
    maps[i].times++; maps[h.place].times++; opened++; *a = maps[i].start;
    return 0;
}
result cuIpcCloseMemHandle(address a) {
    CURRENT; EAGER;
    // Nobody knows what a kernel that still runs touches of a peer.
    NEED(!busy_ms());
    slow("cuIpcCloseMemHandle");
    LOCKED;
    int i = map_of(a);
    NEED(i >= 0 && maps[i].kind == OPENED && maps[i].start == a && (maps[i].users >> gpu() & 1));
    maps[maps[i].of].times--; opened--;
    if (--maps[i].times == 0) { free((void*)a); maps[i].kind = NOTHING; }
    return 0;
}
result cuPointerGetAttribute(void* out, int which, address a) {
    CURRENT; LOCKED;
    NEED(which == 17);
    int i = map_of(a);
    if (i < 0) return 1;
    *(void**)out = maps[i].kind == POOL ? (void*)0x70 : 0;
    return 0;
}
result cuMemsetD8Async(address a, unsigned char v, size_t n, void* s) {
    CURRENT; NEED(s); reaches(a, n);
    if (!recorded(s, (struct work){.at = a, .bytes = n, .value = v})) memset((void*)a, v, n);
    return 0;
}
result cuMemcpyHtoDAsync_v2(address a, void const* p, size_t n, void* s) { CURRENT; EAGER; NEED(s); reaches(a, n); memcpy((void*)a, p, n); return 0; }
result cuMemcpyDtoHAsync_v2(void* p, address a, size_t n, void* s) { CURRENT; EAGER; NEED(s); reaches(a, n); memcpy(p, (void*)a, n); return 0; }
result cuMemcpyDtoDAsync_v2(address a, address b, size_t n, void* s) { CURRENT; EAGER; NEED(s); reaches(a, n); reaches(b, n); memcpy((void*)a, (void*)b, n); return 0; }
result cuPointerGetAttributes(unsigned n, int* which, void** out, address a) {
    CURRENT; LOCKED;
    NEED(n == 5 && which[0] == 2 && which[1] == 8 && which[2] == 9 && which[3] == 11 && which[4] == 12);
    int i = map_of(a), r = range_of(a);
    *(unsigned*)out[0] = i < 0 ? 0 : 2; *(unsigned*)out[1] = 0; *(int*)out[2] = i < 0 ? -2 : maps[i].owner;
    // Of pages all the addresses that were reserved together, as the driver has it.
    *(address*)out[3] = i < 0 ? 0 : r < 0 ? maps[i].start : ranges[r].start; *(size_t*)out[4] = i < 0 ? 0 : r < 0 ? maps[i].bytes : ranges[r].bytes;
    return 0;
}

result cuStreamCreate(void** s, unsigned flags) { CURRENT; CALL(cuStreamCreate); NEED(flags == 1); streams++; *s = (void*)stack[depth - 1]; return 0; }
result cuStreamDestroy_v2(void* s) { CURRENT; NEED(s && streams > 0); streams--; return 0; }
result cuStreamSynchronize(void* s) { CURRENT; EAGER; (void)s; CALL(cuStreamSynchronize); usleep(1000 * busy_ms()); return 0; }
result cuStreamQuery(void* s) { CURRENT; EAGER; NEED(!captures_globally || s != captured_stream); CALL(cuStreamQuery); return busy_ms() ? 600 : 0; }
result cuStreamGetCtx(void* s, void** c) { CURRENT; *c = s ? s : (void*)stack[depth - 1]; return 0; }
result cuStreamWaitEvent(void* s, void* e, unsigned flags) { CURRENT; EAGER; NEED(s && e && flags == 0); return 0; }
result cuLaunchHostFunc(void* s, void (*task)(void*), void* data) { CURRENT; EAGER; NEED(s && task); task(data); return 0; }
result cuEventCreate(void** e, unsigned flags) { CURRENT; NEED(flags == 0 || flags == 2); events++; *e = (void*)(long)(0x10 + flags); return 0; }
result cuEventDestroy_v2(void* e) { CURRENT; NEED(e && events > 0); events--; return 0; }
result cuEventRecord(void* e, void* s) { CURRENT; EAGER; NEED(e && s); return 0; }
result cuEventSynchronize(void* e) { CURRENT; EAGER; NEED(e); usleep(1000 * busy_ms()); return 0; }
result cuEventQuery(void* e) { CURRENT; EAGER; NEED(e); CALL(cuEventQuery); return busy_ms() ? 600 : 0; }
result cuEventElapsedTime(float* ms, void* a, void* b) { CURRENT; if ((long)a != 0x10 || (long)b != 0x10) return 400; *ms = 1.5f; return 0; }

result cuMemHostAlloc(void** p, size_t n, unsigned flags) { CURRENT; CALL(cuMemHostAlloc); NEED(flags == 3); pinned++; *p = aligned_alloc(4096, n); memset(*p, 0xff, n); return 0; }
result cuMemHostGetDevicePointer_v2(address* a, void* p, unsigned flags) { CURRENT; CALL(cuMemHostGetDevicePointer_v2); NEED(flags == 0); *a = (address)p; return 0; }
// It waits for all kernels of a GPU, and one may wait for who is here.
result cuMemFreeHost(void* p) { CURRENT; NEED(pinned > 0 && !getenv("FAKE_PINNED")); free(p); pinned--; return 0; }

result cuModuleLoadDataEx(void** m, void const* image, unsigned n, int* options, void** values) {
    CURRENT;
    NEED(image && n == 2 && options[0] == 5 && options[1] == 6 && (long)values[1] == 8192);
    if (fails("cuModuleLoadDataEx")) { strcpy(values[0], "the fake loader says no"); return fails("cuModuleLoadDataEx"); }
    modules++; *m = (void*)(long)MODULE;
    return 0;
}
result cuModuleUnload(void* m) { CURRENT; NEED((long)m == MODULE && modules > 0); modules--; return 0; }
result cuModuleGetFunction(void** f, void* m, char const* name) {
    CURRENT; CALL(cuModuleGetFunction);
    NEED((long)m == MODULE && strncmp(name, "all_reduce_", 11) == 0);
    *f = (void*)(long)FUNCTION;
    return 0;
}
result cuFuncLoad(void* f) { CURRENT; NEED((long)f == FUNCTION); return 0; }
static int shared_allowed = 48 << 10;
result cuFuncGetAttribute(int* v, int a, void* f) { CURRENT; NEED((long)f == FUNCTION); *v = a == 0 ? 512 : a == 1 ? 128 : a == 4 ? 100 : 0; return 0; }
result cuFuncSetAttribute(void* f, int a, int v) { CURRENT; NEED((long)f == FUNCTION && a == 8); if (v > 227 << 10) return 1; NEED(v >= shared_allowed); shared_allowed = v; return 0; }
result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void* f, int threads, size_t shared) {
    CURRENT;
    NEED((long)f == FUNCTION && threads >= 1 && threads <= 512 && (int)shared <= shared_allowed);
    *n = 512 / threads;
    return 0;
}

// The kernel's parameter as far as the fake looks: the windows, the address of the fault, the rank, where peers find the buffers.
struct arguments { address window[8], input, output; uint64_t bytes, call; address fault; uint64_t rest[9]; uint32_t rank, ranks, more[12]; address input_at[8], output_at[8]; };
struct attribute { int id; char pad[4]; union { char pad[64]; int yes; } value; };
struct config { unsigned grid[3], block[3], shared; void* stream; struct attribute* attributes; unsigned count; };
// How far an address lies in what was reserved or allocated with it; locked.
static size_t within(address a) {
    int r = range_of(a), i = map_of(a);
    NEED(i >= 0);
    return a - (r < 0 ? maps[i].start : ranges[r].start);
}
// The same place of the same memory, whoever maps it where; locked.
static int meet(address at, address own) { return !at || (getenv("FAKE_GONE") && map_of(at) < 0) || within(at) == within(own); }
result cuLaunchKernelEx(struct config const* c, void* f, void** parameters, void** extra) {
    CURRENT; CALL(cuLaunchKernelEx);
    NEED(sizeof(struct attribute) == 72 && c->count <= 1);
    // Cooperative, or programmatic; nothing where ranks share the GPU.
    NEED(!c->count || (c->attributes->value.yes == 1 && (c->attributes->id == 2 || c->attributes->id == 6)));
    NEED((long)f == FUNCTION && !extra && c->grid[1] == 1 && c->grid[2] == 1 && c->block[1] == 1 && c->block[2] == 1);
    NEED((long)c->stream == stack[depth - 1] && (int)c->shared <= shared_allowed);
    struct arguments const* args = parameters[0];
    for (uint32_t r = 0; r < args->ranks; ++r) {
        reaches(args->window[r], 8);
        LOCKED;
        NEED(meet(args->input_at[r], args->input) && meet(args->output_at[r], args->output));
    }
    struct launch launch = {(uint32_t*)args->fault, args->rank, c->grid[0], c->block[0]};
    if (!recorded(c->stream, (struct work){.launch = launch})) launch_now(launch);
    return 0;
}

result cuStreamIsCapturing(void* s, int* status) { CURRENT; NEED(s); *status = capturing && s == captured_stream; return 0; }
result cuThreadExchangeStreamCaptureMode(int* mode) {
    NEED(*mode >= 0 && *mode <= 2);
    int before = mode_here;
    mode_here = *mode; *mode = before;
    return 0;
}
result cuStreamBeginCapture_v2(void* s, int mode) {
    CURRENT; CALL(cuStreamBeginCapture_v2);
    NEED(s && (mode == 0 || mode == 1) && !capturing);
    captures_globally = mode == 0;
    capturing = calloc(1, sizeof *capturing); captured_stream = s; captures_here = 1;
    return 0;
}
result cuStreamEndCapture(void* s, void** graph) {
    CURRENT;
    NEED(captures_here && s == captured_stream);
    *graph = capturing; capturing = 0; captures_here = 0; captures_globally = 0; graphs++;
    if (fails("cuStreamEndCapture")) { free(*graph); *graph = 0; graphs--; return fails("cuStreamEndCapture"); }
    return 0;
}
result cuGraphDestroy(void* g) { CURRENT; NEED(g && graphs > 0); free(g); graphs--; return 0; }
result cuGraphInstantiateWithFlags(void** exec, void* g, unsigned long long flags) {
    CURRENT; EAGER; CALL(cuGraphInstantiateWithFlags);
    NEED(g && flags == 0);
    *exec = memcpy(malloc(sizeof(struct list)), g, sizeof(struct list)); execs++;
    return 0;
}
result cuGraphUpload(void* exec, void* s) { CURRENT; EAGER; CALL(cuGraphUpload); NEED(exec && s); return 0; }
result cuGraphLaunch(void* exec, void* s) {
    CURRENT; EAGER; CALL(cuGraphLaunch);
    NEED(exec && s);
    struct list const* list = exec;
    for (int i = 0; i < list->count; ++i) {
        struct work const* work = &list->work[i];
        if (work->launch.fault) launch_now(work->launch);
        else { reaches(work->at, work->bytes); memset((void*)work->at, work->value, work->bytes); }
    }
    return 0;
}
result cuGraphExecDestroy(void* exec) { CURRENT; EAGER; NEED(exec && execs > 0); free(exec); execs--; return 0; }

static char const cubin[] = "fake cubin";
result nvrtcVersion(int* major, int* minor) { *major = 13; *minor = 0; return 0; }
result nvrtcGetNumSupportedArchs(int* n) { *n = 2; return 0; }
result nvrtcGetSupportedArchs(int* archs) { archs[0] = 80; archs[1] = 90; return 0; }
result nvrtcCreateProgram(void** p, char const* text, char const* name, int n, char const* const* texts, char const* const* names) {
    NEED(text && strstr(name, ".cu"));
    for (int i = 0; i < n; ++i) NEED(texts[i] && strstr(names[i], "myelon/"));
    *p = malloc(1);
    return 0;
}
result nvrtcCompileProgram(void* p, int n, char const* const* options) { CALL(nvrtcCompileProgram); NEED(p && n >= 2 && strcmp(options[0], "--gpu-architecture=sm_90") == 0); return 0; }
result nvrtcDestroyProgram(void** p) { free(*p); *p = 0; return 0; }
result nvrtcGetCUBINSize(void* p, size_t* n) { NEED(p); *n = sizeof cubin; return 0; }
result nvrtcGetCUBIN(void* p, char* out) { NEED(p); memcpy(out, cubin, sizeof cubin); return 0; }
result nvrtcGetProgramLogSize(void* p, size_t* n) { NEED(p); *n = 13; return 0; }
result nvrtcGetProgramLog(void* p, char* out) { NEED(p); memcpy(out, "the fake log", 13); return 0; }
