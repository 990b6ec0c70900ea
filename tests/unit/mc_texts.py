# SPDX-License-Identifier: Apache-2.0
"""The .mc files of real hosts, shortened: what their packages ship, and what administrators make."""

from __future__ import annotations

DEBIAN_MC = b"""divert(-1)dnl
#-----------------------------------------------------------------------------
# This file is used to configure Sendmail for use with Debian systems.
# It isn't for hand-editing; don't use `make' here: FEATURE(`promiscuous_relay')
#	* make   (or make -C /etc/mail)
divert(0)dnl
#
#   Copyright (c) 1998-2005 Richard Nelson.  All Rights Reserved.
define(`_USE_ETC_MAIL_')dnl
include(`/usr/share/sendmail/cf/m4/cf.m4')dnl
VERSIONID(`$Id: sendmail.mc, v 8.17.1.9-2+deb12u2 2024-06-16 21:07:57 cowboy Exp $')
OSTYPE(`debian')dnl
DOMAIN(`debian-mta')dnl
dnl # SAFE_FILE_ENV: [undefined] If set, sendmail will do a chroot()
dnl #   define(`confSAFE_FILE_ENV',             `')dnl
dnl # Remove `, Addr=' clauses to receive from any interface
FEATURE(`no_default_msa')dnl
DAEMON_OPTIONS(`Family=inet,  Name=MTA-v4, Port=smtp, Addr=127.0.0.1')dnl
dnl # Be somewhat anal in what we allow
define(`confPRIVACY_FLAGS',dnl
`needmailhelo,needexpnhelo,needvrfyhelo,restrictqrun,restrictexpand,nobodyreturn,authwarnings')dnl
dnl # Define connection throttling and window length
define(`confCONNECTION_RATE_THROTTLE', `15')dnl
define(`confCONNECTION_RATE_WINDOW_SIZE',`10m')dnl
dnl # use /etc/mail/local-host-names
FEATURE(`use_cw_file')dnl
dnl #
dnl # The access db is the basis for most of sendmail's checking
FEATURE(`access_db', , `skip')dnl
FEATURE(`greet_pause', `1000')dnl 1 seconds
FEATURE(`delay_checks', `friend', `n')dnl
define(`confBAD_RCPT_THROTTLE',`3')dnl
FEATURE(`conncontrol', `nodelay', `terminate')dnl
dnl define(`confCON_EXPENSIVE',`True')dnl
include(`/etc/mail/m4/dialup.m4')dnl
include(`/etc/mail/m4/provider.m4')dnl
dnl # Default Mailer setup
MAILER_DEFINITIONS
MAILER(`local')dnl
MAILER(`smtp')dnl

"""

DEBIAN_SUBMIT_MC = b"""divert(-1)dnl
# cf/debian/submit.mc.  Generated from submit.mc.in by configure.
divert(0)dnl
define(`_USE_ETC_MAIL_')dnl
include(`/usr/share/sendmail/cf/m4/cf.m4')dnl
VERSIONID(`$Id: submit.mc, v 8.17.1.9-2+deb12u2 2024-06-16 21:07:57 cowboy Exp $')
OSTYPE(`debian')dnl
DOMAIN(`debian-msp')dnl
dnl MASQUERADE_AS()dnl
dnl FEATURE(`masquerade_envelope')dnl
dnl # NOTE WELL:  MSA (587) should have M=Ea, so we need to use stock 25
FEATURE(`msp', `[127.0.0.1]', `25')dnl
dnl # Some minor cleanup from FEATURE(msp)
dnl #
"""

REDHAT_MC = b"""divert(-1)dnl
dnl #
dnl # This is the sendmail macro config file for m4. If you make changes to
dnl # /etc/mail/sendmail.mc, you will need to regenerate the sendmail.cf
dnl #
include(`/usr/share/sendmail-cf/m4/cf.m4')dnl
VERSIONID(`setup for linux')dnl
OSTYPE(`linux')dnl
dnl # define(`confSMTP_LOGIN_MSG', `$j Sendmail; $b')dnl
define(`confDEF_USER_ID', ``8:12'')dnl
dnl define(`confAUTO_REBUILD')dnl
define(`confTO_CONNECT', `1m')dnl
define(`confTRY_NULL_MX_LIST', `True')dnl
define(`confDONT_PROBE_INTERFACES', `True')dnl
define(`PROCMAIL_MAILER_PATH', `/usr/bin/procmail')dnl
define(`ALIAS_FILE', `/etc/aliases')dnl
define(`UUCP_MAILER_MAX', `2000000')dnl
define(`confPRIVACY_FLAGS', `authwarnings,novrfy,noexpn,restrictqrun')dnl
define(`confAUTH_OPTIONS', `A')dnl
define(`confTO_IDENT', `0')dnl
dnl FEATURE(delay_checks)dnl
FEATURE(`smrsh', `/usr/sbin/smrsh')dnl
FEATURE(`mailertable', `hash -o /etc/mail/mailertable.db')dnl
FEATURE(redirect)dnl
FEATURE(local_procmail, `', `procmail -t -Y -a $h -d $u')dnl
FEATURE(`access_db', `hash -T<TMPF> -o /etc/mail/access.db')dnl
DAEMON_OPTIONS(`Port=smtp,Addr=127.0.0.1, Name=MTA')dnl
FEATURE(`accept_unresolvable_domains')dnl
dnl FEATURE(`relay_based_on_MX')dnl
LOCAL_DOMAIN(`localhost.localdomain')dnl
MAILER(smtp)dnl
MAILER(procmail)dnl
dnl MAILER(cyrusv2)dnl
"""

SUBMIT_MC = b"""divert(-1)
#
#  This is the prototype file for a set-group-ID sm-msp sendmail that
#  acts as a initial mail submission program.
#
divert(0)dnl
VERSIONID(`$Id: submit.mc,v 8.15 2013-11-22 20:51:08 ca Exp $')
define(`confCF_VERSION', `Submit')dnl
define(`__OSTYPE__',`')dnl dirty hack to keep proto.m4 from complaining
define(`confTIME_ZONE', `USE_TZ')dnl
FEATURE(`msp', `[127.0.0.1]')dnl
dnl enable this for SMTPUTF8 support
dnl LOCAL_CONFIG
dnl O SMTPUTF8=true
"""

FREEBSD_MC = b"""divert(0)
VERSIONID(`$FreeBSD$')
OSTYPE(freebsd6)
DOMAIN(generic)

FEATURE(access_db, `hash -o -T<TMPF> /etc/mail/access')
FEATURE(blocklist_recipients)
FEATURE(local_lmtp)
FEATURE(mailertable, `hash -o /etc/mail/mailertable')

dnl Uncomment to allow relaying based on your MX records.
dnl FEATURE(relay_based_on_MX)

dnl Dialup users should uncomment and define this appropriately
dnl define(`SMART_HOST', `your.isp.mail.server')

define(`confCW_FILE', `-o /etc/mail/local-host-names')
DAEMON_OPTIONS(`Name=IPv4, Family=inet')
define(`confBIND_OPTS', `WorkAroundBrokenAAAA')
define(`confNO_RCPT_ACTION', `add-to-undisclosed')
define(`confPRIVACY_FLAGS', `authwarnings,noexpn,novrfy')
MAILER(local)
MAILER(smtp)
"""

CLIENT_MC = b"""divert(0)dnl
VERSIONID(`$Id: clientproto.mc,v 8.17 2013-11-22 20:51:08 ca Exp $')

OSTYPE(unknown)
FEATURE(nullclient, mailhost.$m)
"""

# A file that grew: a FEATURE that came too late, a commented one that is active, rules of its own.
LOCAL_MC = b"""OSTYPE(linux)dnl
# FEATURE(`promiscuous_relay')dnl
ifdef(`_ACCEPT_SOME_MAIL_', `dnl', `define(`_ACCEPT_SOME_MAIL_', `1')')dnl
define(`confPRIVACY_FLAGS', ``authwarnings'')
FEATURE(`use_cw_file')FEATURE(`redirect')
MAILER(local)
MAILER(smtp)
FEATURE(`smrsh')dnl
LOCAL_CONFIG
Kbad regex -a@BAD ^(spam|don.t)$

LOCAL_RULESETS
SLocal_check_mail
# addresses in @example.com aren't checked
R$* $| $*		$: $(bad $1 $) a(b, c
"""

TEXTS = (DEBIAN_MC, DEBIAN_SUBMIT_MC, REDHAT_MC, SUBMIT_MC, FREEBSD_MC, CLIENT_MC, LOCAL_MC)
