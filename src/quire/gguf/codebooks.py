"""The codebooks of GGUF's IQ and MXFP4 types: which values a code of the file stands for.

The tables are those of the format (`ggml-common.h` of ggml: `kvalues_iq4nl`, `kvalues_mxfp4` and
`iq2xxs_grid` to `iq1s_grid`). What comes out of them here are bytes with 128 added to each value, and
several weights in one word, so that one look-up finds the weights of a whole code.
"""

from __future__ import annotations

import base64
import functools
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ZERO = 128
"""Added to every value, so that it is an unsigned byte."""

VALUES = {
    "IQ4": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
    "MXFP4": (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
}
"""What the 16 codes of a type with 4 bits stand for. Those of MXFP4 are doubled, to be integers."""


class _Grid(NamedTuple):
    """Points: the vectors that a code may stand for, in the order of the codes."""

    length: int
    """Weights of a point."""
    levels: tuple[int, ...]
    """The values that a weight may have."""
    chosen: str
    """A bit for each vector of levels, 1 for the points; packed, deflated and in base 85.

    The number of a vector has its first weight as its last digit, in the base of the levels. In this
    order codes ascend too.
    """


_STEPS_OF_2 = (8, 25, 43)
# IQ1's are multiplied by 8, as the eighth is that its types add to each value, or subtract.
_GRIDS = {
    "IQ2_XXS": _Grid(
        8,
        _STEPS_OF_2,
        (
            "c-nPRORj`4470MbdWwiuj~R8vF<3s$DPNNQV8mEdDvh1mfzMz4@MsNM4-kL~Dg?0u3Z<Q}s#5&i%a^YL7=qI"
            "Lyw)W4Cso8iRnlpCLd`c4Du;C<RlH?aajd+e<FY7)k8>WSTt@47wX1jPqB41q=2e+&9hy;#r#nzQ(d`wV2I-"
            "N(E<X_7hks$x7)Do8!;TEvZcdv+$;Bf*s-;99+U-&7)=?KnsoS&M%ZZjW8ztGaG<oin^)>q~!#84@<5Q?C;c"
            "Ae-jqH$lW6s<jvF<nQc*Z$~yKl@H%B$)D{-`Y{-_v~Aze0c0{sHUUCpi"
        ),
    ),
    "IQ2_XS": _Grid(
        8,
        _STEPS_OF_2,
        (
            "c-mc2ORj`4470L|dWwh@;*?QWh*MOoP)|Aew9xme83;|{*iP^L>UVu^J$f&9<)%0;rYcZH@zkTcz*1-`0#F4"
            "vd)cqIa~EY0S(m36us~sl4e+uqnt+xnD5p1ifdk&k2^cqyDKl&hVwLuN#<u{Y#82-D2r2AS*#~B;6>b%zZ?$"
            "An2Qav5OyP;?IjC1*OUa>YNXBOJs!l*N%2M9ag1pZ#qbS<pDODX)Ys@FiGwcn?g7z}ZUJ85J?WuXe7)kq!xj"
            "_MC=sehbo`f6hw91-EjVApg;SBK(#S-ctqy5bslAAu_xaBeODLPcR%XL4jpOCvsj1dP@iIwgyVBr<uBI!nKM"
            "uUZZ1qQNNP<bV}FGN4KvRv{ky>(2~*Gt;x6q$P={6Cb#@3Dfxx_wWh`vWo0U*P"
        ),
    ),
    "IQ2_S": _Grid(
        8,
        _STEPS_OF_2,
        (
            "c-n1JOKt@r42!agI0c#&;*=39#3>LflvCCTO#7-9jpk=;Y=fB%TefG%OIlXuE_Fz<Ougf=%xu>+l3Bq8hyjg"
            "~lMrunmZ<Wy`~YGiEi#3On5vBd<vmKZSi%aW(psKWGWlAsphF>8rUC+;ZDfa(=s@_F#i0yss$-8fvv#Vf@jN"
            "V{kuiVLgA~66J1A2@4RVJKUxH}IH-$JpaZ^g})pmKjjd>lmojtPqGOJ!xqXVV(I)s3f1HneH&<4|id_Zsqi~"
            "d9|fZw$~1nHWO$bgs-@JBFei6qb36Asxo<#s4;BRhd~d<sfnbhG0<$t^)oE$@gK%zO1xyELVB%s1k`FAKZeJ"
            "@WjCtPZ6s4%XC=!ChZ<C{I5t%jB|RQ$q0^0H^%ZVVCdNfJ9HPfzZdmWSrg_I({bPgptf%^rJMcpz`hTS7u<>"
            "s9rVvW-WSa`T|j+oGk"
        ),
    ),
    "IQ3_XXS": _Grid(
        4,
        (4, 12, 20, 28, 36, 44, 52, 62),
        (
            "c-l=-K?=h#3{ye}VW$qZd!FLL9+1HvWO^EVh1sdkoaHp#R7#szmgHo6m{j1}>~2z^o7e*jro|>W6f;suxGq5"
            "ThwwrH-tdy3S=*8VCKknJ;ww~xN=C-Lt2kc1f`n?I#<sN&{qc;xi`rsIog^>xCi>0vO72GEj+P?`#G30*;dk"
            "afo0(MD70~26E5oy)Fh-PS2J_iYxE!Gh>5A3e2Aw8l#Lz*UZ2xyz&!sE!Xy7=t?heopubnm$;UMyR4j1Wf!f"
            ";*xLWT6+u!rw*Hy!tqyDZ17JdzPtf@!~_J7yrh&WtZi"
        ),
    ),
    "IQ3_S": _Grid(
        4,
        (1, 3, 5, 7, 9, 11, 13, 15),
        (
            "c-k#dK}rKb5Ud?m7(7iN59ovqtiR~U2pdlmS^v`sIn3TR;sZue5Z@6$Amj-`@D=vV+J}a&>aMEU{rNq)_mDQ"
            "1)6rXa`g-zl6)-xV9&D<-%sLtw(&E+K!8jAZAn=FIh`{BX?s3iZ9eL!0y{saQwa{i<M_rV8i?Gza!ZNf5Tx$"
            "=B>&%}&x2aFnb2>I1DZfG3@eJJ?w}Hf9jj>U<u}qaX$V(Q{%bJZi0qBwX8+P2=0D&xpG^*kpx3aC_+^woo1g"
            "Dy;frCMb5s>PfCelExhl@Z5=M_J&lZwQK<TIaOt1Nd_t_Z4Nkqr(Irw~QLK*sjOloy2EUU#sN3YKfvLC9pG+"
            "yhGG#kO><KBF1{I~{B$E!8AqIlE}-BNQAl`R33C|JNFjj93D(#a!oZudm_a(c~OHe<Yb)Y4R?AVbTWv01QA~"
            "hX"
        ),
    ),
    "IQ1_S": _Grid(
        8,
        (-8, 0, 8),
        (
            "c-k#eO>0z16uqyx#k83y_qA0qE*kA7fk#%6iL;cd<W&+S(JE7AEBc6nlGQ*KX*Z#@1057+gows$6w-}Cbfte"
            "_m;o2UY|_#*VZa~*x^U%6T=`Mm&aUdhx#ygF&eKOplgaU0)cQ?aLaWb`!=%}lC@i-gZEZ5CFdhU_><`D{U2p"
            "dIZAiiRBZ^Tjpc--1mjt-&r-O_l7bZy)3*%3zRUeyRXfJ~s5?<5PM<UK4aB<I3L}>n{hnc{+>K$G67mn>zvR"
            "$=UOtZPa7LUsmQWQ2bN)ou!Kj_yfb~LQyR=nku)`P+=g=?+GNRyF#AueD^;Yg67k)HG=(os>Uh!rG~(gRxZz"
            "a2HhyPsM)=qh9|ehXUldkU;_wA!C+2Fv`rcq!34!0Fqz%0;&7#XeAmBu`}t6ci#>+3WlSwzITy{$0C$RU8lh"
            "lWkibbyz6nxOL=l|4%yAAJ4G^LV^S*V!(*CwdNU%)Qrh$#q9cyW*tq|@QQ}j896#XTv`6q5lhc&*LLPVeEGc"
            "ad$xT4&D*b^FV9bJ+^}ih*A`2jX2rIue$9q9{)`S!jt!g=X1D{vGEMnukjj}Wcvs!oqc~_d61@aP1V3Bvcjc"
            "9uWpgt6=l#-;vm1GpU-HX*>(|GJ!F2C{R9{8qA7trFiLFJ0VD+S2Ny_0+jiaiUvPbU!Gt<44HyL$nQ%A{iI)"
            "xZW(;0iU=zRoe)YSg8LFF!L&Ei&Q)FngSxd==b)ez8IIEAq?gCPR1z1`cE#svx$dBcgrdMr~`+vY{G*{j)Ld"
            "H7J(;|V_S3+rEqj0{aUGZ~5`z3=#nUT2ypkIbf^7Qd%#dKF#22&cWI$B=(k{y*i-P-%7a6aqltG8tC11XWn$"
            "8wuQe)#`Rb$ezM@h+=MX6ehv4>@KW-1MD8)wE"
        ),
    ),
}


def looked_up(codes: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """The values of codes of 4 bits: (blocks, an even number), a byte each."""
    return _pairs(name).take(codes.view(np.uint16)).view(np.uint8)


@functools.cache
def grid(name: str) -> NDArray[Any]:
    """(points,): the values of a point's 4 or 8 weights, in one word."""
    length, levels, chosen = _GRIDS[name]
    bits = np.frombuffer(zlib.decompress(base64.b85decode(chosen)), np.uint8)
    numbers = np.flatnonzero(np.unpackbits(bits))
    digits = numbers[:, None] // len(levels) ** np.arange(length) % len(levels)
    values = (np.array(levels) + ZERO).astype(np.uint8)[digits]
    return _frozen(values.view(np.uint32 if length == 4 else np.uint64).reshape(-1))


@functools.cache
def masks() -> NDArray[np.uint64]:
    """(256,): for a byte of signs, a word whose bytes are 255 where a weight is negative."""
    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return _frozen((signs * np.uint8(255)).view(np.uint64).reshape(-1))


@functools.cache
def even_masks() -> NDArray[np.uint64]:
    """(128,): `masks` for 7 signs; the eighth is such that an even number is negative."""
    codes = np.arange(128, dtype=np.uint8)
    odd = np.unpackbits(codes[:, None], axis=1).sum(axis=1, dtype=np.uint8) & 1
    return _frozen(masks()[codes | (odd << 7)])


def even_signs(words: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """(blocks, 4 a word): the masks of four times 7 signs, in the lower 28 bits of each word."""
    codes = (words[:, :, None] >> np.arange(0, 28, 7, dtype=np.uint32)) & np.uint32(127)
    return even_masks().take(codes).reshape(len(words), -1)


def signed(points: NDArray[Any], negative: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The bytes of points (blocks, any), with the sign changed where the byte in `negative` is 255."""
    words = points.view(np.uint64) ^ negative
    words += negative & every_byte(1)  # 128 + v became 127 - v
    return words.view(np.uint8).reshape(len(points), -1)


def shifted(points: NDArray[Any], down: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of IQ1's points (blocks, any): 1 is added to each, or subtracted where `down` is 1."""
    words = points + every_byte(1)
    words -= down.astype(np.uint64) * every_byte(2)
    return words.view(np.uint8).reshape(len(points), -1)


def every_byte(value: int) -> np.uint64:
    """A word of which each byte is `value`."""
    return np.uint64(value * 0x0101_0101_0101_0101)


@functools.cache
def _pairs(name: str) -> NDArray[np.uint16]:
    """(65536,): for two bytes that have a code each, their two values."""
    values = np.zeros(256, np.uint8)
    values[:16] = np.array(VALUES[name]) + ZERO
    both = np.empty((256, 256, 2), np.uint8)
    both[:, :, 0] = values  # a word's first byte is its lower one
    both[:, :, 1] = values[:, None]
    return _frozen(both.view(np.uint16).reshape(-1))


def _frozen(table: NDArray[Any]) -> NDArray[Any]:
    table.flags.writeable = False
    return table
