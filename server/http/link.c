/* SPDX-License-Identifier: Apache-2.0
 *
 * What libmicrohttpd does not do for a connection. Its time-out is one of inactivity, which a byte
 * now and then evades: a link that is not through at its deadline has its socket shut down. And it
 * closes a socket whose peer still sends, so that the kernel's reset overtakes the reply: such a
 * socket is kept a while longer, by a descriptor of our own, and what arrives is thrown away.
 */
#include "server/http/http_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_MS 2000
#define LINGERERS_MAX 64u            /* those beyond are reset */
#define DISCARD_BYTES (256u << 10)   /* of each at a tick */

struct lb_link {
    int fd;
    bool refused, shut;
    int64_t deadline_ms;
    lb_link *next, *previous;
};

struct lb_links {
    pthread_mutex_t lock;
    lb_link *open, *lingering;
    unsigned lingerers;
};

lb_links *lb_links_create(void)
{
    lb_links *links = calloc(1, sizeof *links);
    if (links)
        pthread_mutex_init(&links->lock, NULL);
    return links;
}

static void attach(lb_link **list, lb_link *link)
{
    link->previous = NULL;
    link->next = *list;
    if (link->next)
        link->next->previous = link;
    *list = link;
}

static void detach(lb_link **list, lb_link *link)
{
    if (link->previous)
        link->previous->next = link->next;
    else
        *list = link->next;
    if (link->next)
        link->next->previous = link->previous;
}

void lb_links_free(lb_links *links)
{
    if (!links)
        return;
    while (links->lingering) {
        lb_link *link = links->lingering;
        detach(&links->lingering, link);
        close(link->fd);
        free(link);
    }
    pthread_mutex_destroy(&links->lock);
    free(links);
}

lb_link *lb_link_open(lb_links *links, int fd, int64_t deadline_ms)
{
    lb_link *link = calloc(1, sizeof *link);
    if (!link)
        return NULL;
    link->fd = fd;
    link->deadline_ms = deadline_ms;
    pthread_mutex_lock(&links->lock);
    attach(&links->open, link);
    pthread_mutex_unlock(&links->lock);
    return link;
}

void lb_link_until(lb_links *links, lb_link *link, int64_t deadline_ms)
{
    if (!link)
        return;
    pthread_mutex_lock(&links->lock);
    link->deadline_ms = deadline_ms;
    pthread_mutex_unlock(&links->lock);
}

void lb_link_refuse(lb_link *link)
{
    if (link)
        link->refused = true;
}

/* Whether closing the socket now would reset the connection under the reply. */
static bool still_sending(const lb_link *link)
{
    int unread = 0;
    if (link->shut || link->refused)
        return !link->shut;
    return ioctl(link->fd, FIONREAD, &unread) == 0 && unread > 0;
}

void lb_link_close(lb_links *links, lb_link *link)
{
    if (!link)
        return;
    int copy = -1;
    pthread_mutex_lock(&links->lock);
    detach(&links->open, link);
    if (still_sending(link) && links->lingerers < LINGERERS_MAX)
        copy = fcntl(link->fd, F_DUPFD_CLOEXEC, 0);
    if (copy >= 0) {
        /* The end of the stream goes out behind the reply. */
        shutdown(copy, SHUT_WR);
        link->fd = copy;
        link->deadline_ms = INT64_MAX;    /* set at the next tick, which knows the time */
        attach(&links->lingering, link);
        links->lingerers++;
    }
    pthread_mutex_unlock(&links->lock);
    if (copy < 0)
        free(link);
}

/* False once the peer has closed its side, or reset both. */
static bool discard(int fd)
{
    char bytes[8192];
    for (size_t total = 0; total < DISCARD_BYTES;) {
        ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n <= 0)
            return n < 0 && (errno == EAGAIN || errno == EINTR);
        total += (size_t)n;
    }
    return true;
}

/* Under the lock no open link's socket can be closed and its number reused. */
void lb_links_tick(lb_links *links, int64_t now_ms)
{
    lb_link *next;
    pthread_mutex_lock(&links->lock);
    for (lb_link *link = links->open; link; link = link->next) {
        if (link->deadline_ms <= now_ms) {
            shutdown(link->fd, SHUT_RDWR);
            link->shut = true;
            link->deadline_ms = INT64_MAX;
        }
    }
    for (lb_link *link = links->lingering; link; link = next) {
        next = link->next;
        if (link->deadline_ms == INT64_MAX)
            link->deadline_ms = now_ms + LINGER_MS;
        if (link->deadline_ms > now_ms && discard(link->fd))
            continue;
        detach(&links->lingering, link);
        links->lingerers--;
        close(link->fd);
        free(link);
    }
    pthread_mutex_unlock(&links->lock);
}
