/* CartPole in C, played through `soulsai bridge`: it reports, and gets an action for each report.
 *
 *     cc -O2 -o cartpole cartpole.c -lm
 *     soulsai bridge --invite lab.invite --env CartPole-v1 &
 *     ./cartpole 6480 100000
 *
 * Each message is one line of JSON. Every report gets exactly one answer:
 *   {"type":"action","action":1}  do this, then report a step
 *   {"type":"reset"}              the episode was over: begin another, then report a reset
 *   {"type":"end"}                the run is over
 *   {"type":"error","message":..} the report was wrong; the bridge hangs up
 */
#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LINE 4096
#define PI 3.14159265358979323846
#define MOST_STEPS 500

static double state[4]; /* place, speed, angle, turn */
static int steps;       /* of the episode */

static void reset(void) {
    for (int i = 0; i < 4; i++) state[i] = 0.1 * rand() / RAND_MAX - 0.05;
    steps = 0;
}

/* Take one step; return whether the pole has fallen. */
static int step(int action) {
    double force = action == 1 ? 10.0 : -10.0;
    double cosine = cos(state[2]), sine = sin(state[2]);
    double common = (force + 0.05 * state[3] * state[3] * sine) / 1.1;
    double bend = (9.8 * sine - cosine * common) / (0.5 * (4.0 / 3.0 - 0.1 * cosine * cosine / 1.1));
    double push = common - 0.05 * bend * cosine / 1.1;
    state[0] += 0.02 * state[1];
    state[1] += 0.02 * push;
    state[2] += 0.02 * state[3];
    state[3] += 0.02 * bend;
    steps++;
    return fabs(state[0]) > 2.4 || fabs(state[2]) > 12.0 * 2.0 * PI / 360.0;
}

static int connect_to(int port) {
    struct sockaddr_in address = {0};
    int link = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    address.sin_family = AF_INET;
    address.sin_port = htons((unsigned short)port);
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    if (link < 0 || connect(link, (struct sockaddr *)&address, sizeof address) < 0) {
        fprintf(stderr, "cartpole: no bridge at port %d; start `soulsai bridge`\n", port);
        exit(1);
    }
    setsockopt(link, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* answers come at once */
    return link;
}

/* Send a line and read the answer; return 0 when the bridge has hung up. */
static int ask(int link, const char *line, char *answer) {
    static char buffer[LINE];
    static size_t held;
    size_t length = strlen(line), sent = 0;
    while (sent < length) {
        ssize_t now = send(link, line + sent, length - sent, MSG_NOSIGNAL);
        if (now <= 0) return 0;
        sent += (size_t)now;
    }
    for (;;) {
        char *end = memchr(buffer, '\n', held);
        if (end != NULL) {
            size_t size = (size_t)(end - buffer);
            memcpy(answer, buffer, size);
            answer[size] = '\0';
            held -= size + 1;
            memmove(buffer, end + 1, held);
            return 1;
        }
        if (held == LINE) return 0;
        ssize_t now = recv(link, buffer + held, LINE - held, 0);
        if (now <= 0) return 0;
        held += (size_t)now;
    }
}

int main(int count, char **words) {
    if (count != 3) {
        fprintf(stderr, "usage: cartpole PORT STEPS\n");
        return 2;
    }
    long most = atol(words[2]), taken = 0, episodes = 0;
    char report[LINE], answer[LINE];
    struct timespec began, now;
    int link = connect_to(atoi(words[1]));
    clock_gettime(CLOCK_MONOTONIC, &began);
    int is_new = 1, fallen = 0;
    while (taken < most) {
        if (is_new) {
            reset();
            snprintf(report, LINE, "{\"type\":\"reset\",\"observation\":[%.9g,%.9g,%.9g,%.9g]}\n",
                     state[0], state[1], state[2], state[3]);
        } else {
            snprintf(report, LINE,
                     "{\"type\":\"step\",\"observation\":[%.9g,%.9g,%.9g,%.9g],\"reward\":1.0,"
                     "\"terminated\":%s,\"truncated\":%s}\n",
                     state[0], state[1], state[2], state[3], fallen ? "true" : "false",
                     steps >= MOST_STEPS ? "true" : "false");
        }
        if (!ask(link, report, answer)) break;
        is_new = strstr(answer, "\"reset\"") != NULL;
        char *action = strstr(answer, "\"action\":");
        while (action != NULL && strstr(action + 1, "\"action\":") != NULL)
            action = strstr(action + 1, "\"action\":"); /* the field, not the type */
        if (is_new) {
            episodes++;
        } else if (action != NULL) {
            fallen = step(atoi(action + strlen("\"action\":")));
            taken++;
        } else {
            fprintf(stderr, "cartpole: %s\n", answer);
            break;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)(now.tv_sec - began.tv_sec) + 1e-9 * (double)(now.tv_nsec - began.tv_nsec);
    printf("%ld steps, %ld episodes, %.0f steps/s\n", taken, episodes, (double)taken / seconds);
    close(link);
    return 0;
}
