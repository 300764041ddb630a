use zeroize::Zeroize;

/// `N` secret bytes that are wiped when dropped, never printed, and copied only by [`Secret::duplicate`].
///
/// ```
/// let s = coterie_crypto::Secret::new([7u8; 32]);
/// assert_eq!(format!("{s:?}"), "Secret(32 bytes)");
/// ```
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Takes ownership of `bytes`; the caller's copy, if it has one, is the caller's to wipe.
    #[must_use]
    pub fn new(mut bytes: [u8; N]) -> Self {
        // Boxed, so that moving the secret moves a pointer and leaves no copy of the bytes on the stack.
        let boxed = Box::new(bytes);
        bytes.zeroize();
        Self(boxed)
    }

    /// A secret of zeros, to be filled through [`Secret::expose_mut`].
    #[must_use]
    pub fn zeroed() -> Self {
        Self(Box::new([0; N]))
    }

    /// Parses exactly `N` bytes, or `None`.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != N {
            return None;
        }
        let mut s = Self::zeroed();
        s.0.copy_from_slice(bytes);
        Some(s)
    }

    /// Draws `N` bytes from `entropy`.
    pub fn draw(entropy: &mut (impl crate::Entropy + ?Sized)) -> Self {
        let mut s = Self::zeroed();
        entropy.fill(&mut s.0[..]);
        s
    }

    /// The bytes, for a primitive. Named so that every use is easy to find.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// The bytes, to be written by a primitive.
    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }

    /// A second copy, wiped on its own.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let mut s = Self::zeroed();
        s.0.copy_from_slice(&self.0[..]);
        s
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> core::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Secret({N} bytes)")
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    /// Constant time.
    fn eq(&self, other: &Self) -> bool {
        same_bytes(&self.0[..], &other.0[..])
    }
}

impl<const N: usize> Eq for Secret<N> {}

/// Compares in constant time (for equal lengths; the lengths themselves are public).
#[must_use]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_and_parses() {
        let a = Secret::<4>::new([1, 2, 3, 4]);
        assert_eq!(Some(a.duplicate()), Secret::from_slice(&[1, 2, 3, 4]));
        assert_eq!(Secret::<4>::from_slice(&[1, 2, 3]), None);
        assert_ne!(a, Secret::new([1, 2, 3, 5]));
    }
}
